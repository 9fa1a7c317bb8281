"""Stored bits: flips reach exactly the element named, and a second flip undoes the first."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.models import attach_lens, card, select, stored
from holdfast.numerics.bits import bit_equal
from holdfast.numerics.formats import formats

FORMATS = ["int8", "int4", "rquant8", "rquant4", "rquant2", "fp16", "bf16", "fp8-e4m3fn"]


def lensed(model, spec, name="fc.weight"):
    model = copy.deepcopy(model)
    form = formats.build(spec)
    attach_lens(model, name, form, form.encode(model.get_parameter(name).detach()))
    return model, next(site for site in select(model, "weights") if site.name == name)


@pytest.mark.parametrize("spec", FORMATS)
def test_every_bit_of_a_code_flips_and_comes_back(digits_net, spec):
    model, site = lensed(digits_net, spec)
    place, parameter, lens = stored(model, site), model.fc.weight, card(model).lenses["fc.weight"]
    codes, values = place.codes.clone(), parameter.detach().clone()
    assert site.bits == formats.build(spec).bits
    for bit in range(site.bits):
        index, mask = torch.tensor([3, 17, 200]), torch.full((3,), 1 << bit)
        place.xor_(index, mask)
        changed = (place.codes != codes).view(-1).nonzero().flatten()
        assert changed.tolist() == [3, 17, 200]
        assert lens.matches(parameter)  # only what was touched was decoded, and nothing else had to be
        place.xor_(index, mask)
        assert torch.equal(place.codes, codes)
        assert bit_equal(parameter.detach(), values)


def test_the_sign_bit_of_a_narrow_code_reaches_the_bits_above_it(digits_net):
    model, site = lensed(digits_net, "int4")
    place = stored(model, site)
    index = (place.codes.view(-1) == -1).nonzero()[0]
    place.xor_(index, torch.tensor([8]))
    assert place.codes.view(-1)[index].item() == 7
    assert -8 <= int(place.codes.min()) <= int(place.codes.max()) <= 7


def test_float_weights_and_buffers_flip_in_place(digits_net):
    for site in select(digits_net, "weights:conv2.weight, buffers:norm1.running_var"):
        place = stored(digits_net, site)
        before = place.tensor.detach().clone()
        index, mask = torch.tensor([0, site.numel - 1]), torch.tensor([1 << 30, -(1 << 63)])
        place.xor_(index, mask & 0xFFFFFFFF | torch.tensor([0, 1 << 31]))
        assert (place.tensor != before).sum() == 2
        assert place.tensor.view(-1)[-1] == -before.view(-1)[-1]
        place.xor_(index, mask & 0xFFFFFFFF | torch.tensor([0, 1 << 31]))
        assert bit_equal(place.tensor.detach(), before)


@pytest.mark.parametrize("spec", [None, "int8"])
def test_positions_are_logical_whatever_the_layout(digits_net, spec):
    model = digits_net
    if spec:
        model, _ = lensed(digits_net, spec, "conv2.weight")
    site = next(s for s in select(model, "weights") if s.name == "conv2.weight")
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert not twin.conv2.weight.is_contiguous()
    for one in (model, twin):
        stored(one, site).xor_(torch.tensor([5]), torch.tensor([1 << 6]))
    assert torch.equal(model.conv2.weight, twin.conv2.weight)


def test_codes_are_attached_once(digits_net):
    model, _ = lensed(digits_net, "int8")
    form = formats.build("int4")
    with pytest.raises(InvalidConfig, match="already stored as"):
        attach_lens(model, "fc.weight", form, form.encode(model.fc.weight.detach()))


def test_a_copy_has_codes_of_its_own(digits_net):
    model, site = lensed(digits_net, "int8")
    twin = copy.deepcopy(model)
    stored(twin, site).xor_(torch.tensor([0]), torch.tensor([64]))
    assert not torch.equal(stored(twin, site).codes, stored(model, site).codes)
    assert not torch.equal(twin.fc.weight, model.fc.weight)


def test_computed_sites_hold_nothing(digits_net):
    with pytest.raises(NoSuchSite, match="computed, not stored"):
        stored(digits_net, select(digits_net, "activations:fc", torch.rand(1, 8, 8))[0])
