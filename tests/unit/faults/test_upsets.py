"""Multi-bit upsets: classes come in their shares, and each keeps to its pattern."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.faults import BitErrors, MultiBitUpsets
from holdfast.faults.upsets import CLASSES, PRESETS, shares_of
from holdfast.models.site import Site
from holdfast.seeds import derive

Draw = Callable[..., np.ndarray]
ALPHA = 1e-4
ENTRIES = 400_000
WIDE = Population((Site("weights", "w", (ENTRIES * 32,), "int8", 8),))
RARE = 1e-5  # upsets per bit: entries with two of them are few


def patterns(shares: str, draw: Draw, rate: float = RARE, seed: int = 1) -> list[np.ndarray]:
    """Return the bits (0..255) hit in each entry in which exactly one upset begins."""
    law = MultiBitUpsets(rate=rate, shares=shares)
    begun = Counter((draw(BitErrors(rate=rate), WIDE, seed) // 256).tolist())
    entry, bit = np.divmod(draw(law, WIDE, seed), 256)
    firsts = np.flatnonzero(np.diff(entry, prepend=-1))
    groups = np.split(bit, firsts[1:])
    return [group for number, group in zip(entry[firsts].tolist(), groups, strict=True) if begun[number] == 1]


def kind(bits: np.ndarray) -> str:
    """Classify by the definitions of the paper, independent of the code under test."""
    if len(bits) == 1:
        return "bit"
    if len(set(bits // 8)) == 1:
        return "byte"
    if len(set(bits % 64)) == 1:
        return "pin"
    if len(bits) <= 3:
        return {2: "two", 3: "three"}[len(bits)]
    return "beat" if len(set(bits // 64)) == 1 else "entry"


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_keeps_to_its_pattern(name: str, draw: Draw) -> None:
    found = patterns(f"{name}=1", draw)
    assert len(found) > 800
    assert {kind(bits) for bits in found} == {name}


def test_classes_come_in_their_shares(draw: Draw) -> None:
    text = "bit=0.5/byte=0.1/pin=0.05/two=0.1/three=0.05/beat=0.15/entry=0.05"
    found = Counter(kind(bits) for bits in patterns(text, draw))
    shares = shares_of(text)
    total = sum(found.values())
    assert (
        stats.chisquare([found[name] for name in shares], [share * total for share in shares.values()]).pvalue > ALPHA
    )


@pytest.mark.parametrize(("name", "sets"), [("byte", 247), ("pin", 11)])
def test_sets_within_a_byte_and_a_pin_are_alike(name: str, sets: int, draw: Draw) -> None:
    scale = {"byte": 1, "pin": 64}[name]
    low = {"byte": 8, "pin": 256}[name]
    found = Counter(tuple((bits % low // scale).tolist()) for bits in patterns(f"{name}=1", draw, rate=1e-4))
    assert len(found) == sets
    assert stats.chisquare(list(found.values())).pvalue > ALPHA


def test_the_other_bits_of_two_and_three_are_anywhere(draw: Draw) -> None:
    pairs = patterns("two=1", draw, rate=1e-4)
    gaps = np.array([int(bits[1] - bits[0]) for bits in pairs])
    place = np.arange(256)
    allowed = [b - a for a, b in itertools.combinations(place.tolist(), 2) if a // 8 != b // 8 and a % 64 != b % 64]
    edges = [1, 9, 33, 65, 100, 150, 256]
    expected = np.histogram(allowed, edges)[0] / len(allowed) * len(gaps)
    assert stats.chisquare(np.histogram(gaps, edges)[0], expected).pvalue > ALPHA
    triples = np.concatenate(patterns("three=1", draw, rate=1e-4))
    assert stats.chisquare(np.bincount(triples, minlength=256)).pvalue > ALPHA


@pytest.mark.parametrize(("name", "size"), [("beat", 64), ("entry", 256)])
def test_noise_is_fair(name: str, size: int, draw: Draw) -> None:
    found = patterns(f"{name}=1", draw)
    assert stats.binomtest(sum(map(len, found)), size * len(found), 0.5).pvalue > ALPHA


def test_single_bits_are_bit_errors(memory: Population, draw: Draw) -> None:
    found = draw(MultiBitUpsets(rate=0.01, shares="bit=1"), memory, 3)
    assert np.array_equal(found, draw(BitErrors(rate=0.01), memory, 3))


def test_upsets_of_a_lower_rate_are_a_subset(memory: Population, draw: Draw) -> None:
    found = [set(draw(MultiBitUpsets(rate=rate), memory, 4).tolist()) for rate in (0.0, 1e-5, 1e-3, 0.05, 1.0)]
    assert all(low <= high for low, high in itertools.pairwise(found))
    assert found[0] == set()


def test_a_site_does_not_depend_on_the_others(memory: Population) -> None:
    law = MultiBitUpsets(rate=0.001)
    everything = {item.site: item for item in law.flips(memory, derive(5))}
    for item in law.flips(Population(memory.sites[1:2]), derive(5)):
        assert torch.equal(item.index, everything[item.site].index)
        assert torch.equal(item.mask, everything[item.site].mask)


def test_addresses_beyond_2_to_the_33(draw: Draw) -> None:
    huge = Population((Site("weights", "huge", (2**34,), "int8", 8),))
    found = draw(MultiBitUpsets(rate=1e-9, shares="byte=0.5/entry=0.5"), huge, 6)
    assert found.max() > 2**35
    assert len(set((found // 256).tolist())) < 250


def test_the_preset_adds_up() -> None:
    assert set(shares_of("hbm2")) == set(CLASSES)
    assert set(PRESETS) == {"hbm2"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("hbm3", "cannot read"),
        ("bit=0.5/bit=0.5", "cannot read"),
        ("bit=0.5", "add up"),
        ("bit=half/byte=0.5", "not a number"),
        ("bit=nan/byte=1", "between 0 and 1"),
        ("bit=2/byte=-1", "between 0 and 1"),
    ],
)
def test_bad_shares(shares: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        MultiBitUpsets(rate=0.1, shares=shares)
