from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import campaign, paired, predict
from holdfast.faults import BitFlip
from holdfast.hardening import Bounds, RangeGuard, RangeRestriction, harden, profile
from holdfast.models import card, load, manifest_of, save, sites
from holdfast.models.guard import guard_from_json
from holdfast.numerics import bits


@pytest.fixture(scope="module")
def bounds(trained: nn.Module) -> Bounds:
    return profile(trained, dataset("digits", split="train"))


@pytest.fixture(scope="module")
def hardened(trained: nn.Module, bounds: Bounds) -> nn.Module:
    return harden(trained, RangeRestriction(bounds))


def test_profile_sees_every_activation(trained: nn.Module, digits: Dataset, bounds: Bounds) -> None:
    names = [site.name for site in sites(trained, digits.example) if site.kind == "activations"]
    assert list(bounds.ranges) == names
    assert all(low <= high for low, high, _ in bounds.ranges.values())
    assert bounds["relu"][0] == 0.0
    assert bounds["fc"][2] == 10 * len(dataset("digits", split="train"))
    with torch.no_grad():
        logits = trained(dataset("digits", split="train").all()[0])
    assert bounds["fc"][:2] == pytest.approx((float(logits.min()), float(logits.max())), rel=1e-5)


def test_clean_outputs_do_not_change(hardened: nn.Module, trained: nn.Module) -> None:
    train = dataset("digits", split="train")
    assert bits.bit_equal(predict(hardened, train), predict(trained, train))


def test_sites_and_the_original_stay(hardened: nn.Module, trained: nn.Module, digits: Dataset) -> None:
    assert sites(hardened, digits.example) == sites(trained, digits.example)
    assert card(trained).guards == []
    assert card(trained).lineage == []
    assert manifest_of(hardened).digest != manifest_of(trained).digest
    step = card(hardened).lineage[-1]
    assert step.kind == "harden"
    assert step.parameters["slack"] == 1.3
    assert step.inputs["model"] == manifest_of(trained).digest


def test_guards_help_in_the_same_campaign(hardened: nn.Module, trained: nn.Module, digits: Dataset) -> None:
    arms = [campaign(model, digits, BitFlip(), at="activations", trials=1000, seed=0) for model in (trained, hardened)]
    found = paired(*arms)
    assert found.only_second <= 2
    assert found.only_first > 10
    assert found.p_value < 0.01
    assert arms[1]["due"].value == 0
    assert arms[1].guarded >= found.only_first
    assert arms[0].guarded == 0


def test_events_are_counted_per_row(hardened: nn.Module, digits: Dataset) -> None:
    report = campaign(hardened, digits, BitFlip(), at="activations:conv1", trials=300, seed=0)
    high = [row for row in report.rows if row.bit == 30]
    assert sum(row.guard_events > 0 for row in high) > len(high) / 2
    assert all(row.guard_events == 0 for row in report.rows if row.bit < 10)


def test_saved_and_loaded_guards_still_work(hardened: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    save(hardened, tmp_path / "model")
    back = load(tmp_path / "model")
    assert manifest_of(back).digest == manifest_of(hardened).digest
    arms = [campaign(model, digits, BitFlip(), at="activations", trials=100, seed=0) for model in (hardened, back)]
    assert arms[0].digest == arms[1].digest
    copied = copy.deepcopy(hardened)
    assert campaign(copied, digits, BitFlip(), at="activations", trials=100, seed=0).digest == arms[0].digest


def test_the_guard_repairs_everything_outside() -> None:
    guard = RangeGuard("x", -1.0, 2.0)
    x = torch.tensor([[0.5, -1.0, 2.0], [torch.nan, torch.inf, -torch.inf], [3.0, -5.0, 0.0]])
    assert torch.equal(guard(x), torch.tensor([[0.5, -1.0, 2.0], [0.0, 2.0, -1.0], [2.0, -1.0, 0.0]]))
    assert guard.events is not None
    assert guard.events.tolist() == [0, 3, 2]
    guard(torch.zeros(2, 3))
    assert guard.events.tolist() == [0, 0]


@pytest.mark.parametrize(("low", "high", "nearest"), [(1.0, 2.0, 1.0), (-3.0, -2.0, -2.0), (-1.0, 1.0, 0.0)])
def test_nan_goes_to_zero_or_the_nearest_bound(low: float, high: float, nearest: float) -> None:
    assert RangeGuard("x", low, high)(torch.tensor([[torch.nan]])).item() == nearest


def test_the_stored_value_is_corrected_unless_training() -> None:
    guard = RangeGuard("x", 0.0, 1.0)
    x = torch.tensor([[5.0]])
    guard(x)
    assert x.item() == 1.0
    leaf = torch.tensor([[5.0], [0.5]], requires_grad=True)
    guard(leaf * 1).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("seen", "widened"),
    [
        ((-2.0, 4.0), (-3.0, 6.0)),
        ((2.0, 4.0), (2.0 / 1.5, 6.0)),
        ((-4.0, -2.0), (-6.0, -2.0 / 1.5)),
        ((0.0, 1.0), (0.0, 1.5)),
    ],
)
def test_slack_always_widens(seen: tuple[float, float], widened: tuple[float, float]) -> None:
    method = RangeRestriction(Bounds({"0": (*seen, 1)}), slack=1.5)
    guard = method.guards(nn.Sequential(nn.ReLU()))[0]
    assert (guard.low, guard.high) == widened


def test_bounds_beyond_the_dtype_are_refused() -> None:
    guard = RangeGuard("stem", -45837.0, 1e5)
    with pytest.raises(InvalidConfig, match="does not fit float16"):
        guard(torch.zeros(1, 2, dtype=torch.float16))
    assert guard(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_senseless_bounds(low: float, high: float) -> None:
    with pytest.raises(InvalidConfig):
        RangeGuard("x", low, high)


def test_guard_json_rebuilds_it() -> None:
    guard = guard_from_json(RangeGuard("x", -1.5, 2.0).to_json())
    assert guard.to_json() == {"kind": "range-restriction", "site": "x", "low": -1.5, "high": 2.0}


def test_bad_calls(trained: nn.Module, digits: Dataset, bounds: Bounds) -> None:
    with pytest.raises(InvalidConfig, match="at least 1"):
        RangeRestriction(bounds, slack=0.9)
    with pytest.raises(NoSuchSite, match="conv1"):
        harden(nn.Sequential(nn.ReLU()), RangeRestriction(bounds))
    with pytest.raises(InvalidConfig, match="only activations"):
        profile(trained, digits, at="weights")
    broken = copy.deepcopy(trained)
    broken.conv2.weight.data[0] = torch.inf
    with pytest.raises(InvalidConfig, match="conv2 gives NaN or infinity"):
        profile(broken, digits)
