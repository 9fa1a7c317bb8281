"""The single bit flip: exactly one, uniform over all bits."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.faults import BitFlip
from holdfast.models.site import Site
from holdfast.seeds import derive

WIDE = Site("weights", "wide", (3,), "fp32", 32)
NARROW = Site("weights", "narrow", (8,), "int4", 4)


def test_uniform_over_bits_not_over_sites() -> None:
    drawn: Counter[tuple[str, int, int]] = Counter()
    for number in range(12_800):
        (item,) = BitFlip().flips(Population((WIDE, NARROW)), derive(number, "flip"))
        drawn[item.site.name, int(item.index), int(item.mask)] += 1
    assert len(drawn) == 128
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-4


def test_the_flip_belongs_to_its_seed() -> None:
    population = Population((WIDE, NARROW))
    one, other = (BitFlip().flips(population, derive(5))[0] for _ in range(2))
    assert (one.site, one.index.tolist(), one.mask.tolist()) == (other.site, other.index.tolist(), other.mask.tolist())


def test_nothing_to_flip() -> None:
    with pytest.raises(InvalidConfig, match="empty population"):
        BitFlip().flips(Population(()), derive(0))
