"""Bit errors: the right distribution, and chips that persist exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Flips, Population
from holdfast.faults import BitErrors
from holdfast.faults import chip as chip_module
from holdfast.faults.bit_errors import xor_chip_
from holdfast.faults.chip import Chip
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive

LADDER = (0.0, 1e-7, 3e-6, 1e-4, 0.001, 0.0078125, 0.01, 0.05, 0.25, 0.3, 0.5, 0.77, 1.0)
ALPHA = 1e-4  # seeds are fixed: a test that passes once passes for ever


def weights(name: str = "w", numel: int = 300_000, width: int = 8) -> Site:
    return Site("weights", name, (numel,), "rquant8", width)


def addresses(items: list[Flips]) -> set[tuple[str, int, int]]:
    return {
        (item.site.name, int(index), bit)
        for item in items
        for index, mask in zip(item.index, item.mask, strict=True)
        for bit in range(item.site.bits)
        if int(mask) >> bit & 1
    }


def positions(count: int, rate: float, seed: Seed, start: int = 0) -> np.ndarray:
    parts = [found + offset for offset, found in Chip(rate, seed).lists(start, start + count)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def chip(rate: float, seed: int, *sites: Site) -> list[Flips]:
    return BitErrors(rate=rate).flips(Population(sites), derive(seed))


@pytest.mark.parametrize("rate", [1e-5, 0.001, 0.01, 0.1, 0.5, 0.9])
def test_the_count_is_binomial(rate: float) -> None:
    total = 2_400_000
    count = sum(int(bits.popcount(item.mask).sum()) for item in chip(rate, 1, weights()))
    assert stats.binomtest(count, total, rate).pvalue > ALPHA


def test_counts_of_many_chips_spread_as_a_binomial_does() -> None:
    size, rate, chips = 40_000, 0.01, 400
    counts = np.array([len(positions(size, rate, derive(seed, "spread"))) for seed in range(chips)])
    variance = size * rate * (1 - rate)
    z = (counts.mean() - size * rate) / math.sqrt(variance / chips)
    spread = (chips - 1) * counts.var(ddof=1) / variance
    assert abs(z) < 4
    assert ALPHA < stats.chi2.cdf(spread, chips - 1) < 1 - ALPHA


@pytest.mark.parametrize("rate", [0.003, 0.02, 0.4])
def test_bit_planes_are_hit_alike(rate: float) -> None:
    (item,) = chip(rate, 2, weights())
    planes = [int((item.mask >> bit & 1).sum()) for bit in range(8)]
    expected = 300_000 * rate
    chi2 = sum((found - expected) ** 2 / (expected * (1 - rate)) for found in planes)
    assert stats.chi2.sf(chi2, 8) > ALPHA


def test_flips_per_weight_are_binomial() -> None:
    rate = 0.05
    (item,) = chip(rate, 3, weights())
    counted = torch.bincount(bits.popcount(item.mask), minlength=9).numpy()
    counted[0] = 300_000 - len(item.index)
    found = np.append(counted[:4], counted[4:].sum())
    expected = 300_000 * stats.binom.pmf(range(4), 8, rate)
    expected = np.append(expected, 300_000 - expected.sum())
    assert stats.chisquare(found, expected).pvalue > ALPHA


def test_gaps_are_geometric() -> None:
    rate = 0.01
    gaps = np.diff(np.sort(positions(2**20, rate, derive(4))))
    edges = [1, 20, 50, 100, 200, 400, 10**9]
    shares = np.diff([1 - (1 - rate) ** (edge - 1) for edge in edges])
    found = np.histogram(gaps, edges)[0]
    assert stats.chisquare(found, shares / shares.sum() * found.sum()).pvalue > ALPHA


def test_marks_are_uniform_across_the_bands() -> None:
    found = [len(positions(2**20, rate, derive(5))) for rate in LADDER[3:]]
    steps = np.diff([0, *found])
    expected = np.diff([0, *LADDER[3:]]) * 2**20
    assert stats.chisquare(steps, expected).pvalue > ALPHA


def test_errors_of_a_lower_rate_are_a_subset() -> None:
    ladder = [set(positions(200_000, rate, derive(6)).tolist()) for rate in LADDER]
    assert all(low <= high for low, high in itertools.pairwise(ladder))
    assert ladder[0] == set()
    assert ladder[-1] == set(range(200_000))


def test_the_ladder_is_exact_below_the_floor_band() -> None:
    for seed in range(40):
        ladder = [
            set(positions(2**20, rate, derive(seed, "floor")).tolist()) for rate in (1e-9, 2e-7, 5e-7, 9e-7, 1e-6)
        ]
        assert all(low <= high for low, high in itertools.pairwise(ladder))
    many = sum(len(positions(2**20, 2.0**-21, derive(seed, "rare"))) for seed in range(400))
    assert stats.poisson(200).cdf(many) == pytest.approx(0.5, abs=0.4999)


def test_a_chip_does_not_depend_on_which_sites_are_asked() -> None:
    a, b, c = weights("a", 5000), weights("b", 70_001, 4), weights("c", 300)
    everything = addresses(chip(0.02, 7, a, b, c))
    assert addresses(chip(0.02, 7, c, a)) == {item for item in everything if item[0] in "ac"}
    assert addresses(chip(0.02, 7, b)) == {item for item in everything if item[0] == "b"}


def test_sites_and_seeds_are_independent() -> None:
    a, b = weights("a", 50_000), weights("b", 50_000)
    drawn = {item.site.name: addresses([item]) for item in chip(0.01, 8, a, b)}
    again = addresses(chip(0.01, 9, a))
    for other in ({(index, bit) for _, index, bit in drawn["b"]}, {(index, bit) for _, index, bit in again}):
        common = len({(index, bit) for _, index, bit in drawn["a"]} & other)
        assert stats.poisson.sf(common - 1, 40) > ALPHA  # 400,000 bits, one in ten thousand in both
        assert stats.poisson.cdf(common, 40) > ALPHA


def test_a_longer_site_begins_with_the_same_chip() -> None:
    site = weights("long", 3 * 2**17 + 11)  # more than one window, and a rest
    (item,) = chip(0.01, 10, site)
    per_part = torch.bincount(item.index // 2**17, minlength=4)
    assert (per_part[:3] > 9000).all()
    assert (per_part[:3] < 11_000).all()
    first = addresses(chip(0.01, 10, weights("long", 2**17)))
    assert first == {address for address in addresses([item]) if address[1] < 2**17}


@pytest.mark.parametrize("rate", [1e-6, 1e-4, 0.0015, 0.01, 0.4, 0.9])
def test_any_part_of_a_memory_is_drawn_alone(rate: float) -> None:
    size = 5_000_011
    whole, seed = positions(size, rate, derive(11)), derive(11)
    assert (np.diff(whole) > 0).all()
    for start, stop in ((0, 1), (17, 3_000_000), (2**21 - 3, 2**21 + 5), (4_999_999, size), (2**22, 2**22 + 1)):
        inside = whole[(whole >= start) & (whole < stop)]
        assert np.array_equal(positions(stop - start, rate, seed, start), inside)


@pytest.mark.parametrize("start", [2**33 - 5, 2**36 + 12_345, 2**50])
def test_addresses_far_beyond_32_bits(start: int) -> None:
    found = positions(2**20, 0.01, derive(12), start)
    assert stats.binomtest(len(found), 2**20, 0.01).pvalue > ALPHA
    assert found[0] >= start
    assert found[-1] < start + 2**20
    other = positions(2**20, 0.01, derive(12), start + 2**33)
    assert len(set((found - start).tolist()) & set((other - start - 2**33).tolist())) < 200  # not the same again


def test_the_rarest_errors_come_as_often_as_they_should() -> None:
    size, chips = 2**34, 30
    total = sum(len(positions(size, 1e-9, derive(seed, "tiny"))) for seed in range(chips))
    assert stats.poisson.sf(total - 1, chips * size * 1e-9) > ALPHA
    assert stats.poisson.cdf(total, chips * size * 1e-9) > ALPHA


@pytest.mark.parametrize("rate", [2.0**-9, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("width", [4, 8, 16, 32, 64])
def test_maps_and_lists_are_one_chip(rate: float, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site = weights("w", 40_000, width)
    (mapped,) = chip(rate, 13, site)
    monkeypatch.setattr("holdfast.faults.chip._DENSE", 2.0)
    (listed,) = chip(rate, 13, site) if rate < 1 else (mapped,)
    assert torch.equal(mapped.index, listed.index)
    assert torch.equal(mapped.mask, listed.mask)


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.01, 0.2])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_raw_memory_meets_the_same_errors_and_forgets_them(rate: float, dtype: torch.dtype) -> None:
    width = bits.bit_width(dtype)
    tensor = torch.arange(100_000).to(dtype)
    memory = tensor.clone().view(torch.uint8).numpy()
    before = memory.copy()
    seed = derive(derive(14), "weights:w")
    for first, last in ((0, 7 * 8), (7 * 8, 200_000), (200_000, len(memory))):
        xor_chip_(memory[first:last], rate, seed, first=first)
    flipped = tensor.clone()
    for item in chip(rate, 14, weights("w", 100_000, width)):
        bits.xor_(flipped, item.index, item.mask)
    assert memory.tobytes() == flipped.view(torch.uint8).numpy().tobytes() != before.tobytes()
    assert xor_chip_(memory, rate, seed) == bits.hamming_distance(flipped.view(torch.uint8), torch.from_numpy(before))
    assert np.array_equal(memory, before)


def test_the_counts_are_poisson_to_the_last_bit() -> None:
    least, table = chip_module._poisson()
    exact = stats.poisson.cdf(np.arange(least, least + len(table)), chip_module._MEAN)
    assert np.abs(table / 2.0**64 - exact).max() < 1e-13
    assert stats.poisson.sf(chip_module._MOST, chip_module._MEAN) < 2.0**-64


def test_marks_that_tie_are_settled_by_further_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an address so wide that two bits of mark are left in the word, bounds between them still split exactly."""
    band = chip_module._Band(0.0, 20, 20)
    halves = chip_module._drawn(derive(15), 0, 40)[1]
    low, half, high = (chip_module._marked(halves, band, derive(16), 0, share) for share in (0.25, 0.3125, 0.5))
    assert (low <= half).all()
    assert (half <= high).all()
    tied = int(high.sum() - low.sum())
    assert stats.binomtest(int(half.sum() - low.sum()), tied, 0.25).pvalue > ALPHA


def test_none_and_all() -> None:
    site = weights("w", 1000, 5)
    assert chip(0.0, 12, site) == []
    (item,) = chip(1.0, 12, site)
    assert torch.equal(item.index, torch.arange(1000))
    assert (item.mask == 0b11111).all()


def test_wide_elements() -> None:
    (item,) = chip(1.0, 13, weights("w", 10, 64))
    assert (item.mask == -1).all()


def test_a_chip_is_frozen() -> None:
    """The bytes of chip 0 are part of the format of results: they may never change."""
    assert sorted(positions(1000, 0.01, derive(0, "vector")).tolist()) == VECTOR


VECTOR = [64, 108, 302, 341, 400, 487, 505, 744, 749, 797, 833, 893, 985]


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_bad_rates(rate: float) -> None:
    with pytest.raises(InvalidConfig, match="between 0 and 1"):
        BitErrors(rate=rate)
