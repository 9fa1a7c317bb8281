"""Stuck cells and errors that prefer a direction: what changes depends on what is stored, exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.execution.condition import Fault
from holdfast.faults import AsymmetricBitErrors, BitErrors, StuckAt
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import derive

Draw = Callable[..., np.ndarray]
ALPHA = 1e-4


def flipped(fault: Fault, codes: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return the XOR mask of every element of a byte site that stores ``codes`` (int64)."""
    site = Site("weights", "w", (len(codes),), "int8", 8)
    mask = torch.zeros(len(codes), dtype=torch.int64)
    for item in fault.flips(Population((site,)), derive(seed)):
        mask[item.index] = item.against(codes[item.index])
    return mask


def ones(mask: torch.Tensor) -> int:
    return int(bits.popcount(mask).sum())


CODES = torch.from_numpy(derive(99).numpy().integers(256, size=200_000))


@pytest.mark.parametrize(("up", "down"), [(0.01, 0.001), (0.002, 0.3), (0.0, 0.05), (0.9, 0.8)])
def test_each_direction_has_its_own_rate(up: float, down: float) -> None:
    mask = flipped(AsymmetricBitErrors(rate_0_to_1=up, rate_1_to_0=down), CODES)
    zeros = 8 * len(CODES) - ones(CODES)
    assert stats.binomtest(ones(mask & ~CODES), zeros, up).pvalue > ALPHA
    assert stats.binomtest(ones(mask & CODES), ones(CODES), down).pvalue > ALPHA


def test_equal_rates_are_bit_errors() -> None:
    assert torch.equal(
        flipped(AsymmetricBitErrors(rate_0_to_1=0.02, rate_1_to_0=0.02), CODES), flipped(BitErrors(rate=0.02), CODES)
    )


def test_both_directions_persist() -> None:
    ladder = [(0.0, 0.0), (0.001, 0.0), (0.001, 0.02), (0.03, 0.02), (0.03, 0.5), (1.0, 0.5), (1.0, 1.0)]
    masks = [flipped(AsymmetricBitErrors(rate_0_to_1=up, rate_1_to_0=down), CODES) for up, down in ladder]
    assert all(not (low & ~high).any() for low, high in itertools.pairwise(masks))
    assert not masks[0].any()
    assert (masks[-1] == 255).all()


@pytest.mark.parametrize(("value", "rising", "falling"), [("0", 0.0, 0.04), ("1", 0.04, 0.0), ("random", 0.02, 0.02)])
def test_a_stuck_bit_flips_only_where_the_other_value_is_stored(value: str, rising: float, falling: float) -> None:
    mask = flipped(StuckAt(rate=0.04, value=value), CODES)  # type: ignore[arg-type]
    zeros = 8 * len(CODES) - ones(CODES)
    assert stats.binomtest(ones(mask & ~CODES), zeros, rising).pvalue > ALPHA
    assert stats.binomtest(ones(mask & CODES), ones(CODES), falling).pvalue > ALPHA


def test_what_a_stuck_memory_reads_does_not_depend_on_what_was_written() -> None:
    law = StuckAt(rate=1.0)
    one, other = (codes ^ flipped(law, codes) for codes in (CODES, 255 - CODES))
    assert torch.equal(one, other)
    assert (CODES ^ flipped(StuckAt(rate=1.0, value="0"), CODES) == 0).all()
    assert (CODES ^ flipped(StuckAt(rate=1.0, value="1"), CODES) == 255).all()


def test_stuck_cells_are_those_of_the_chip_and_keep_their_value(memory: Population, draw: Draw) -> None:
    rates = (0.0, 1e-4, 0.003, 0.02, 0.4, 1.0)
    high = [set(draw(StuckAt(rate=rate), memory, 3, "rise").tolist()) for rate in rates]
    low = [set(draw(StuckAt(rate=rate), memory, 3, "fall").tolist()) for rate in rates]
    assert all(one <= more for one, more in itertools.pairwise(high))
    assert all(one <= more for one, more in itertools.pairwise(low))
    assert not high[-1] & low[-1]
    for rate, rise, fall in zip(rates, high, low, strict=True):
        assert rise | fall == set(draw(BitErrors(rate=rate), memory, 3).tolist())


@pytest.mark.parametrize("law", [StuckAt(rate=0.01), AsymmetricBitErrors(rate_0_to_1=0.02, rate_1_to_0=0.01)])
def test_a_site_does_not_depend_on_the_others(law: Fault, memory: Population) -> None:
    everything = {item.site: item for item in law.flips(memory, derive(5))}
    reverse = law.flips(Population(memory.sites[::-1]), derive(5))
    alone = law.flips(Population(memory.sites[1:2]), derive(5))
    assert [item.site for item in reverse] == list(memory.sites[::-1])
    for item in (*reverse, *alone):
        assert torch.equal(item.index, everything[item.site].index)
        assert torch.equal(item.touched, everything[item.site].touched)


@pytest.mark.parametrize("law", [StuckAt(rate=1e-9), AsymmetricBitErrors(rate_0_to_1=2e-9, rate_1_to_0=0)])
def test_addresses_beyond_2_to_the_33(law: Fault, draw: Draw) -> None:
    huge = Population((Site("weights", "huge", (2**33,), "int8", 8),))
    found = np.concatenate([draw(law, huge, 1, column) for column in ("rise", "fall")])
    assert 20 < len(found) < 300
    assert found.max() > 2**35


def test_a_number_says_where_a_cell_is_stuck() -> None:
    assert StuckAt(rate=0.1, value=1) == StuckAt(rate=0.1, value="1")  # type: ignore[arg-type]
    for wrong in ("2", "one", True, None):
        with pytest.raises(InvalidConfig, match="stuck at"):
            StuckAt(rate=0.1, value=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [-0.1, 1.0001, float("nan"), float("inf"), "much", True, None])
def test_bad_rates(rate: float) -> None:
    with pytest.raises(InvalidConfig, match="between 0 and 1"):
        StuckAt(rate=rate)
    with pytest.raises(InvalidConfig, match="between 0 and 1"):
        AsymmetricBitErrors(rate_0_to_1=0.1, rate_1_to_0=rate)
