"""Guards are part of the model: copied, saved and loaded with it."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from holdfast.errors import NoSuchSite, UnknownName, UnreadableArtifact
from holdfast.hardening import RangeGuard
from holdfast.models import attach_guard, card, load, manifest_of, save, tap
from holdfast.models.guard import guard_from_json


def spoil(value):
    value.view(len(value), -1)[:, 0] = torch.nan
    return value


@torch.no_grad()
def outputs_under_fault(model, x, site="/add"):
    with tap(model, {site: spoil}):
        return model(x)


@pytest.fixture
def guarded(digits_net):
    attach_guard(digits_net, RangeGuard(site="/add", low=-5.0, high=5.0))
    attach_guard(digits_net, RangeGuard(site="conv1", low=-5.0, high=5.0))
    return digits_net


def test_a_guard_corrects_and_counts(guarded):
    x = torch.rand(3, 1, 8, 8)
    assert torch.isfinite(outputs_under_fault(guarded, x)).all()
    assert card(guarded).guards[0].events.tolist() == [1, 1, 1]
    assert card(guarded).guards[1].events.tolist() == [0, 0, 0]


def test_guards_survive_a_copy_and_stay_its_own(guarded):
    twin = copy.deepcopy(guarded)
    x = torch.rand(2, 1, 8, 8)
    assert torch.isfinite(outputs_under_fault(twin, x)).all()
    assert card(twin).guards[0].events.tolist() == [1, 1]
    assert card(guarded).guards[0].events is None


def test_guards_survive_saving(guarded, tmp_path):
    save(guarded, tmp_path / "m")
    again = load(tmp_path / "m")
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(outputs_under_fault(again, x), outputs_under_fault(guarded, x))
    assert manifest_of(again) == manifest_of(guarded)


def test_a_guarded_model_opens_in_a_process_that_knows_no_guards(guarded, tmp_path):
    save(guarded, tmp_path / "m")
    code = f"from holdfast.models.artifact import load; from holdfast.models.card import card; import sys;\
            sys.exit(len(card(load({str(tmp_path / 'm')!r})).guards) - 2)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_guard_at_no_place_is_refused(digits_net):
    with pytest.raises(NoSuchSite, match="computes no layer9"):
        attach_guard(digits_net, RangeGuard(site="layer9", low=0.0, high=1.0))


def test_descriptions_of_guards_are_read_with_suspicion():
    with pytest.raises(UnknownName):
        guard_from_json({"kind": "no-such-guard", "site": "fc"})
    with pytest.raises(UnreadableArtifact, match="malformed"):
        guard_from_json({"kind": "range-restriction", "site": "fc", "depth": 3})


@torch.no_grad()
def test_a_guard_leaves_clean_values_alone(digits_net):
    x = torch.rand(2, 1, 8, 8)
    golden = digits_net(x)
    attach_guard(digits_net, RangeGuard(site="/add", low=-1e6, high=1e6))
    assert torch.equal(digits_net(x), golden)
