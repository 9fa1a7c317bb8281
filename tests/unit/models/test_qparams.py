"""Scales and offsets are sites of their own: selected by name, flipped, and undone to the bit."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import NoSuchSite
from holdfast.execution import inject
from holdfast.faults import BitErrors, BitFlip
from holdfast.models import Site, card, manifest_of, select, sites, stored
from holdfast.numerics.bits import bit_equal, hamming_distance
from holdfast.quantization import quantize


@pytest.fixture
def small(digits_net):
    return quantize(digits_net, "int8", at="weights:conv*")


def test_each_stored_parameter_has_a_site(digits_net):
    assert not [site for site in sites(digits_net) if site.kind == "qparams"]
    model = quantize(digits_net, "uint8", at="weights:fc.weight, weights:conv1.weight")
    found = select(model, "qparams")
    assert [site.address for site in found] == [
        "qparams:conv1.weight/scale",
        "qparams:conv1.weight/low",
        "qparams:fc.weight/scale",
        "qparams:fc.weight/low",
    ]
    assert {(site.shape, site.format, site.bits) for site in found} == {((), "fp32", 32)}


def test_what_the_format_fixes_is_no_site(digits_net, small):
    names = [site.name for site in select(small, "qparams")]
    assert names == ["conv1.weight/scale", "conv2.weight/scale", "conv3.weight/scale"]  # low is zero by definition
    channels = small.conv2.weight.shape[0]
    assert next(site for site in select(small, "qparams:conv2*")).shape == (channels, 1, 1, 1)
    fixed = quantize(digits_net, "global8")
    with pytest.raises(NoSuchSite, match="no site matches qparams"):
        select(fixed, "qparams")


def test_weights_are_selected_as_before(small):
    assert {site.kind for site in select(small)} == {"weights"}
    with pytest.raises(NoSuchSite, match="no site matches qparams") as caught:
        select(small, "qparams:conv1.weight/scales")
    assert "conv1.weight/scale" in caught.value.hint


def test_a_flipped_scale_moves_its_own_channel_and_comes_back(small):
    site = select(small, "qparams:conv2.weight/scale")[0]
    place, weight, lens = stored(small, site), small.conv2.weight, card(small).lenses["conv2.weight"]
    before, codes = weight.detach().clone(), lens.codes.clone()
    index, mask = torch.tensor([1]), torch.tensor([1 << 23])  # the lowest bit of the exponent
    place.xor_(index, mask)
    ratio = weight.detach() / before
    assert set(ratio[1][before[1] != 0].unique().tolist()) <= {0.5, 2.0}
    assert bit_equal(weight.detach()[2:], before[2:])
    assert bit_equal(weight.detach()[0], before[0])
    assert torch.equal(lens.codes, codes)
    place.xor_(index, mask)
    assert bit_equal(weight.detach(), before)


def test_injection_into_codes_and_scales_at_once_is_undone_exactly(small):
    digest, scale = manifest_of(small).digest, card(small).lenses["conv1.weight"].qparams["scale"]
    before, values = scale.clone(), small.conv1.weight.detach().clone()
    with inject(small, BitErrors(rate=0.05), at="weights, qparams, buffers", seed=3):
        assert hamming_distance(scale, before) > 0
        assert not bit_equal(small.conv1.weight.detach(), values)
        assert card(small).lenses["conv1.weight"].matches(small.conv1.weight)
    assert bit_equal(scale, before)
    assert bit_equal(small.conv1.weight.detach(), values)
    assert manifest_of(small).digest == digest


def test_one_bit_of_all_scales(small):
    values = {name: value.detach().clone() for name, value in small.named_parameters()}
    for seed in range(20):
        with inject(small, BitFlip(), at="qparams", seed=seed):
            changed = [name for name, value in small.named_parameters() if not bit_equal(value.detach(), values[name])]
            assert len(changed) == 1  # exactly one scale, and so one parameter
            assert changed[0].startswith("conv")
    assert all(bit_equal(value.detach(), values[name]) for name, value in small.named_parameters())


@pytest.mark.parametrize("name", ["conv1.weight/zero_point", "norm1.weight/scale", "conv1.weight", "nothing/scale"])
def test_a_parameter_that_is_not_stored(small, name):
    with pytest.raises(NoSuchSite, match="the model has no qparams"):
        stored(small, Site("qparams", name, (), "fp32", 32))
