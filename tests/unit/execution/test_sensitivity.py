"""Sensitivity: groups partition the bits, restricted chips are parts of the whole chip, and the answers by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import UnknownName
from holdfast.execution import Flips, Population, Restricted, groups, sensitivity
from holdfast.execution.injection import population_of
from holdfast.faults import BitErrors
from holdfast.quantization import quantize
from holdfast.seeds import Seed, derive

from .gate import ONE, Gate, sign_flips


@pytest.mark.parametrize("by", ["site", "role", "bit", "field"])
def test_groups_hold_every_bit_once(trained: nn.Module, by: str) -> None:
    population = population_of(quantize(trained, "int8"), "weights,buffers", None)
    for site in population.sites:
        masks = [part.get(site.address, 0) for part in groups(population, by).values()]
        assert sum(masks) == (1 << site.bits) - 1  # a sum without carries is a partition
        assert sum(mask.bit_count() for mask in masks) == site.bits


def test_groups_by_name(trained: nn.Module) -> None:
    population = population_of(trained, "weights", None)
    assert list(groups(population, "site")) == [site.address for site in population.sites]
    assert list(groups(population, "field")) == ["mantissa", "exponent", "sign"]
    assert set(groups(population, "field")["exponent"].values()) == {0xFF << 23}
    assert list(groups(population, "bit"))[31] == "fp32 bit 31"
    with pytest.raises(UnknownName, match="layer"):
        groups(population, "layer")


def test_roles_join_layers_and_scales_stand_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.register_buffer("weight_scale", torch.ones(3))
    found = groups(population_of(model, "weights,buffers", None), "role")
    assert list(found) == ["weights:*.weight", "weights:*.bias", "buffers:weight_scale"]
    fields = groups(population_of(model, "weights,buffers", None), "field")
    assert fields["scale: exponent"] == {"buffers:weight_scale": 0xFF << 23}
    assert "buffers:weight_scale" not in fields["exponent"]


def test_restricted_chips_add_up_to_the_chip(trained: nn.Module) -> None:
    population, seed = population_of(trained, "weights", None), derive(0, "chip", 0)
    law = BitErrors(rate=0.01)
    whole = {item.site: item for item in law.flips(population, seed)}
    for by in ("site", "field"):
        joined = {site: torch.zeros(site.numel, dtype=torch.int64) for site in population.sites}
        for masks in groups(population, by).values():
            for item in Restricted(fault=law, bits=tuple(masks.items())).flips(population, seed):
                assert not (joined[item.site][item.index] & item.mask).any()
                joined[item.site][item.index] |= item.mask
        for site, item in whole.items():
            assert torch.equal(joined[site][item.index], item.mask)
            assert int((joined[site] != 0).sum()) == len(item.index)


class _StuckAtOne:
    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        (site,) = population.sites
        index = torch.arange(site.numel)
        nothing = torch.zeros_like(index)
        return [Flips(site, index, nothing, rise=torch.full_like(index, -1))]


def test_bits_that_are_set_are_restricted_too() -> None:
    """The top bit of a 64-bit element is the sign of its mask; stuck at one, it makes 1.0 negative."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    population = population_of(model, "weights", None)
    law = Restricted(fault=_StuckAtOne(), bits=(("weights:weight", 1 << 63),))
    (item,) = law.flips(population, derive(0))
    assert item.rise is not None
    assert item.rise.tolist() == [-(2**63)]
    assert item.mask.tolist() == [0]


def test_the_sign_is_all_there_is_to_lose() -> None:
    """For a positive weight of 1.0, only the sign, or an exponent of NaN, decides; mantissa bits never do."""
    found = {part.group: part for part in sensitivity(Gate().eval(), ONE, BitErrors(rate=0.2), by="field", chips=60)}
    flipped = sign_flips(0.2, 60)
    assert found["sign"].error.per_chip == tuple(float(flip) for flip in flipped)
    assert found["mantissa"].increase.value == 0.0
    assert found["exponent"].increase.value == 0.0  # infinity at worst, since the mantissa of 1.0 stays 0
    assert found["exponent"].error.nonfinite_chips > 0
    assert found["sign"].per_flip == pytest.approx(1.0)  # each flip costs the one image
    assert [found[name].bits for name in ("mantissa", "exponent", "sign")] == [23, 8, 1]


def test_sites_that_do_not_matter(digits: Dataset) -> None:
    """A part whose output is multiplied by zero may fail as it likes; the group of the others carries all."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(64, 10), nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.unused(x.flatten(1))
            return self.used(x.flatten(1))

    torch.manual_seed(0)
    found = sensitivity(Half(), digits.take(50), BitErrors(rate=0.01), by="site", chips=4)
    increases = {part.group: part.increase for part in found}
    assert increases["weights:unused.weight"].value == 0.0
    assert increases["weights:unused.bias"].value == 0.0
    assert any(value.value != 0 for name, value in increases.items() if "unused" not in name)


def test_high_exponent_bits_dominate_a_trained_net(trained: nn.Module, digits: Dataset) -> None:
    found = sensitivity(trained, digits.take(50), BitErrors(rate=0.02), by="bit", chips=3)
    increase = [part.increase.value for part in found]
    assert max(range(32), key=lambda bit: increase[bit]) == 30
    assert increase[30] > 0.5
    assert max(increase[:16]) <= 0.02
