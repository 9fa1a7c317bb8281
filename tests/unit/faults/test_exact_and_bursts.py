"""Exactly k errors, uniform over all sets; and errors that come in runs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.faults import BitErrors, Bursts, ExactErrors
from holdfast.faults.exact import distinct
from holdfast.models.site import Site
from holdfast.seeds import derive

Draw = Callable[..., np.ndarray]
ALPHA = 1e-4


@pytest.mark.parametrize(
    "count", [0, 1, 1000, 1_000_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (1_900_000, 2_000_000))]
)
def test_exactly_so_many(count: int, memory: Population, draw: Draw) -> None:
    found = draw(ExactErrors(count=count), memory, 1)
    assert len(found) == len(np.unique(found)) == count


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_set_is_equally_likely(count: int) -> None:
    drawn = Counter(frozenset(distinct(6, count, derive(number, "set")).tolist()) for number in range(6000))
    subsets = [frozenset(chosen) for chosen in itertools.combinations(range(6), count)]
    assert set(drawn) == set(subsets)
    assert stats.chisquare([drawn[chosen] for chosen in subsets]).pvalue > ALPHA


@pytest.mark.parametrize("count", [1000, 700_000])
def test_bit_planes_and_sites_get_their_share(count: int, memory: Population, draw: Draw) -> None:
    found = draw(ExactErrors(count=count), memory, 2)
    per_site = np.histogram(found, [*memory.starts, memory.bits])[0]
    sizes = np.array([site.population for site in memory.sites])
    spread = (1 - count / memory.bits) * count * sizes / memory.bits  # hypergeometric: narrower than multinomial
    chi2 = ((per_site - count * sizes / memory.bits) ** 2 / spread).sum()
    assert stats.chi2.sf(chi2, 3) > ALPHA
    planes = np.bincount(found[found < 800_000] % 8, minlength=8)
    assert stats.chisquare(planes).pvalue > ALPHA


def test_fewer_are_a_subset(memory: Population, draw: Draw) -> None:
    ladder = [set(draw(ExactErrors(count=k), memory, 3).tolist()) for k in (0, 5, 900, 10**6, 10**6 + 9, 1_700_000)]
    assert all(low <= high for low, high in itertools.pairwise(ladder))


def test_few_in_a_huge_memory(draw: Draw) -> None:
    huge = Population((Site("weights", "huge", (2**50,), "int8", 8),))
    found = draw(ExactErrors(count=2000), huge, 4)
    assert len(found) == 2000
    assert stats.kstest(found / 2**53, "uniform").pvalue > ALPHA


def test_more_than_there_are(memory: Population) -> None:
    with pytest.raises(InvalidConfig, match="no 2000001 bits"):
        ExactErrors(count=2_000_001).flips(memory, derive(0))


@pytest.mark.parametrize("count", [-1, 1.5, True, 2**63, "many"])
def test_bad_counts(count: int) -> None:
    with pytest.raises(InvalidConfig, match="whole number"):
        ExactErrors(count=count)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("rate", [1e-4, 0.02])
def test_bursts_are_runs_from_the_places_where_they_begin(
    rate: float, length: int, memory: Population, draw: Draw
) -> None:
    found = set(draw(Bursts(rate=rate, length=length), memory, 5).tolist())
    begins = draw(BitErrors(rate=rate), memory, 5)
    ends = np.array([*memory.starts[1:], memory.bits])
    stop = np.minimum(begins + length, ends[np.searchsorted(ends, begins, side="right")])
    assert found == {
        address for begin, end in zip(begins.tolist(), stop.tolist(), strict=True) for address in range(begin, end)
    }


def test_the_rate_of_a_bit_in_bursts(memory: Population, draw: Draw) -> None:
    hit = np.zeros(memory.bits, bool)
    hit[draw(Bursts(rate=0.01, length=6), memory, 6)] = True
    apart = hit[5:800_000:6]  # bits six apart are independent: no burst meets two of them
    assert stats.binomtest(int(apart.sum()), len(apart), 1 - 0.99**6).pvalue > ALPHA


def test_rarer_and_shorter_bursts_are_subsets(memory: Population, draw: Draw) -> None:
    ladder = [(0.0, 3), (1e-4, 1), (1e-4, 3), (0.01, 3), (0.01, 9), (1.0, 9)]
    found = [set(draw(Bursts(rate=rate, length=length), memory, 7).tolist()) for rate, length in ladder]
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[0] == set()
    assert len(found[-1]) == memory.bits


@pytest.mark.parametrize("length", [0, -3, 2.0, True])
def test_bad_lengths(length: int) -> None:
    with pytest.raises(InvalidConfig, match="length of a burst"):
        Bursts(rate=0.1, length=length)
