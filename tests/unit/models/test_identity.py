"""The manifest: whatever makes a model another model changes its digest, and nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast.evidence.lineage import Step
from holdfast.hardening import RangeGuard
from holdfast.models import attach_guard, card, manifest_of, model_subject
from holdfast.numerics.bits import xor_
from holdfast.quantization import quantize


def one_bit(model):
    xor_(model.conv2.weight.detach(), torch.tensor([7]), torch.tensor([1]))


def one_buffer(model):
    model.norm2.running_mean[3] += 1e-3


def another_name(model):
    model.head = model.fc
    del model.fc


def another_dtype(model):
    model.half()


def another_shape(model):
    weight = model.fc.weight
    model.fc.weight = torch.nn.Parameter(weight.detach().reshape(weight.shape[1], weight.shape[0]))


def another_architecture(model):
    card(model).architecture = "digits-cnn:channels=16"


def another_history(model):
    card(model).lineage.append(Step("train", {"epochs": 1}, {}))


def a_guard(model):
    attach_guard(model, RangeGuard(site="/add", low=0.0, high=1.0))


def other_classes(model):
    card(model).classes = ("cat", "dog")


CHANGES = [one_bit, one_buffer, another_name, another_dtype, another_shape, another_architecture, another_history]
CHANGES += [a_guard, other_classes]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_shows(digits_net, change):
    other = copy.deepcopy(digits_net)
    assert manifest_of(other).digest == manifest_of(digits_net).digest
    change(other)
    assert manifest_of(other).digest != manifest_of(digits_net).digest
    assert manifest_of(digits_net).differences(manifest_of(other))


def test_the_bounds_of_a_guard_are_bound(digits_net):
    twin = copy.deepcopy(digits_net)
    attach_guard(digits_net, RangeGuard(site="/add", low=0.0, high=1.0))
    attach_guard(twin, RangeGuard(site="/add", low=0.0, high=1.0000001))
    assert manifest_of(digits_net).differences(manifest_of(twin)) == ["fact guards differs"]


def test_the_format_of_the_codes_is_bound(digits_net):
    small = quantize(digits_net, "int8")
    assert "tensor fc.weight#codes is new" in manifest_of(digits_net).differences(manifest_of(small))
    assert "fact formats differs" in manifest_of(digits_net).differences(manifest_of(small))


def test_running_a_model_does_not_change_its_identity(digits_net):
    attach_guard(digits_net, RangeGuard(site="/add", low=0.0, high=1.0))
    before = manifest_of(digits_net).digest
    with torch.no_grad():
        digits_net(torch.rand(4, 1, 8, 8))
    assert manifest_of(digits_net).digest == before
    assert model_subject(digits_net, "mine").to_json() == {"name": "mine", "digest": {"blake3": before}}
