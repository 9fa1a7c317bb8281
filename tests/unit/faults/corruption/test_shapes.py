"""Patterns lie where their names say, in maps, in (tokens, dim) and in weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.execution import Population
from holdfast.faults import Corruption
from holdfast.faults.corruption import PowerLaw, Region, patterns
from holdfast.faults.corruption.power_law import TABLE
from holdfast.models import Site
from holdfast.numerics import bits
from holdfast.seeds import derive

MAP = Site("activations", "conv", (3, 4, 5), "fp32", 32)
TOKENS = Site("activations", "block", (6, 8), "fp32", 32)
WEIGHT = Site("weights", "fc.weight", (6, 8), "fp32", 32)
KERNEL = Site("weights", "conv.weight", (4, 3, 2, 2), "fp32", 32)
VECTOR = Site("activations", "fc", (10,), "fp32", 32)


def hit(where: str, site: Site, place: tuple[int, ...], bit: int = 0) -> set[tuple[int, ...]]:
    element = int(np.ravel_multi_index(place, site.shape))
    region = patterns.build(where).region(site, element, bit, derive(0, "pattern"))
    assert (np.diff(region.index) > 0).all()
    assert element in region.index
    return {tuple(int(axis) for axis in np.unravel_index(item, site.shape)) for item in region.index}


def box(*axes: object) -> set[tuple[int, ...]]:
    ranges = [list(axis) if isinstance(axis, range) else [axis] for axis in axes]
    return {tuple(int(c) for c in point) for point in np.stack(np.meshgrid(*ranges), -1).reshape(-1, len(axes))}


@pytest.mark.parametrize(
    ("where", "site", "place", "expected"),
    [
        ("single", MAP, (1, 2, 3), {(1, 2, 3)}),
        ("row", MAP, (1, 2, 3), box(1, 2, range(5))),
        ("column", MAP, (1, 2, 3), box(1, range(4), 3)),
        ("bullet-wake", MAP, (1, 2, 3), box(range(3), 2, 3)),
        ("channel", MAP, (1, 2, 3), box(1, range(4), range(5))),
        ("row", TOKENS, (2, 5), box(2, range(8))),
        ("column", TOKENS, (2, 5), box(range(6), 5)),
        ("bullet-wake", TOKENS, (2, 5), box(2, range(8))),  # one token, all features
        ("channel", TOKENS, (2, 5), box(range(6), 5)),  # one feature, all tokens
        ("row", WEIGHT, (2, 5), box(2, range(8))),
        ("channel", WEIGHT, (2, 5), box(2, range(8))),  # all that makes one output
        ("bullet-wake", WEIGHT, (2, 5), box(range(6), 5)),
        ("channel", KERNEL, (2, 1, 0, 1), box(2, range(3), range(2), range(2))),
        ("bullet-wake", KERNEL, (2, 1, 0, 1), box(range(4), 1, 0, 1)),
        ("row", VECTOR, (4,), box(range(10))),
        ("column", VECTOR, (4,), {(4,)}),
        ("gemm-tile:rows=2,columns=4", TOKENS, (3, 5), box(range(2, 4), range(4, 8))),
        ("gemm-tile:rows=4,columns=3", TOKENS, (5, 7), box(range(4, 6), range(6, 8))),  # cut at the edges
        ("gemm-tile:rows=2,columns=8", MAP, (1, 2, 3), {(c, n // 5, n % 5) for c in (0, 1) for n in range(8, 16)}),
        ("skip-x:stride=7,count=3", VECTOR, (2,), {(2,), (9,)}),
        ("skip-x:stride=10,count=3", MAP, (0, 1, 1), {(0, 1, 1), (0, 3, 1), (1, 1, 1)}),
        ("block:rows=1,columns=1", MAP, (1, 2, 3), {(1, 2, 3)}),
        ("random:count=99", VECTOR, (3,), box(range(10))),
    ],
)
def test_a_pattern_hits_its_elements(where: str, site: Site, place: tuple[int, ...], expected: set) -> None:
    assert hit(where, site, place) == expected


def test_blocks_are_rectangles_of_one_channel_that_hold_the_element() -> None:
    corners = set()
    for number in range(200):
        region = patterns.build("block:rows=2,columns=3").region(MAP, 1 * 20 + 2 * 5 + 2, 0, derive(number, "b"))
        c, h, w = np.unravel_index(region.index, MAP.shape)
        assert (c == 1).all()
        assert 2 in h
        assert 2 in w
        assert len(region.index) == len(set(h)) * len(set(w)) == 6
        corners.add((int(h.min()), int(w.min())))
    assert corners == {(h, w) for h in (1, 2) for w in (0, 1, 2)}


def test_a_share_of_a_region_is_that_share_and_keeps_the_element() -> None:
    big = Site("activations", "x", (2, 100, 100), "fp32", 32)
    region = patterns.build("channel:share=0.3").region(big, 12345, 0, derive(0, "share"))
    assert 12345 in region.index
    assert set(region.index // 10_000) == {1}
    assert abs(len(region.index) - 3000) < 5 * math.sqrt(10_000 * 0.3 * 0.7)
    lone = patterns.build("row:share=0").region(big, 77, 0, derive(0, "share"))
    assert lone.index.tolist() == [77]


def test_a_shattered_channel_is_a_bullet_wake_and_part_of_a_channel() -> None:
    found = hit("shattered:share=0.5", MAP, (1, 2, 3))
    assert box(range(3), 2, 3) <= found
    assert found - box(range(3), 2, 3) < box(1, range(4), range(5))


def test_neighbouring_bits_cross_elements_and_words_are_aligned() -> None:
    byte = Site("weights", "codes", (6,), "int4", 4)
    upset = patterns.build("mbu:bits=5").region(byte, 1, 2, derive(0, "x"))
    assert upset.index.tolist() == [1, 2]
    assert upset.bits is not None
    assert upset.bits.tolist() == [0b1100, 0b0111]
    last = patterns.build("mbu:bits=5").region(byte, 5, 3, derive(0, "x"))
    assert last.index.tolist() == [5]  # no memory beyond the site
    word = patterns.build("ecc-word:bits=16").region(byte, 5, 0, derive(0, "x"))
    assert word.index.tolist() == [4, 5]
    assert word.bits is None  # whole elements


@pytest.mark.parametrize("where", ["row", "column", "channel", "bullet-wake", "gemm-tile", "block", "shattered"])
def test_scalars_and_single_elements_have_patterns_too(where: str) -> None:
    for shape in ((), (1,), (1, 1), (1, 1, 1)):
        site = Site("qparams", "scale", shape, "fp32", 32)
        (item,) = Corruption(where=where).flips(Population((site,)), derive(0, "x"))
        assert item.index.tolist() == [0]


def test_tensors_are_struck_in_proportion_to_their_bits() -> None:
    population = Population((MAP, TOKENS))
    hits = [Corruption(where="row").flips(population, derive(n, "s"))[0].site.name for n in range(2000)]
    share = MAP.population / population.bits
    assert abs(hits.count("conv") / 2000 - share) < 4 * math.sqrt(share * (1 - share) / 2000)


def test_drawn_bits_are_uniform_and_so_many() -> None:
    big = Site("activations", "x", (1, 1, 20_000), "int8", 8)
    for spec, count in (("bit-flip", 1), ("bit-flip:bits=3", 3), ("bit-flip:bits=3,adjacent=true", 3)):
        (item,) = Corruption(where="row", what=spec).flips(Population((big,)), derive(0, "u"))
        assert (bits.popcount(item.mask) == count).all()
        if "adjacent" in spec:
            assert set(item.mask.tolist()) == {0b111 << place for place in range(6)}
        else:
            each = [int(((item.mask >> bit) & 1).sum()) for bit in range(8)]
            expected = 20_000 * count / 8
            assert max(abs(n - expected) for n in each) < 5 * math.sqrt(expected)
    (same,) = Corruption(where="row", what="bit-flip:bits=2,same=true").flips(Population((big,)), derive(0, "u"))
    assert len(set(same.mask.tolist())) == 1


def test_relative_errors_follow_their_power_law() -> None:
    law, uniform = PowerLaw(xmin=0.5, alpha=3.0), np.array([0.0, 0.75, 0.9375])
    assert law.factors(uniform)[:, 0] == pytest.approx([0.5, 1.0, 2.0])  # xmin * (1 - u) ** (-1 / (alpha - 1))
    site = Site("activations", "x", (1, 1, 20_000), "fp32", 32)
    region = Region(np.arange(20_000))
    item = PowerLaw(xmin=0.5, alpha=3.0).changes(site, region, derive(0, "law"))
    ones = torch.ones(20_000)
    codes = bits.int_view(ones).to(torch.int64)
    after = (codes ^ item.against(codes)).to(torch.int32).view(torch.float32)
    assert float(after.min()) >= 0.5
    for r in (0.6, 1.0, 2.0, 4.0):  # P(factor > r) = (r / xmin) ** (1 - alpha)
        expected = (r / 0.5) ** -2
        assert abs(float((after > r).double().mean()) - expected) < 5 * math.sqrt(expected * (1 - expected) / 20_000)


def test_the_table_has_a_row_of_its_own_for_every_opcode_and_magnitude() -> None:
    """The published index, opcode * 7 + magnitude, reads 21 numbers at places up to 44."""
    assert len(TABLE) == 7
    assert {len(row) for row in TABLE.values()} == {3}
    for opcode in TABLE:
        assert PowerLaw(opcode=opcode).factors(np.array([0.0])).tolist() == [[xmin for xmin, _ in TABLE[opcode]]]


def test_the_magnitude_of_the_right_value_picks_the_row() -> None:
    site = Site("activations", "x", (3,), "fp64", 64)
    item = PowerLaw(opcode="imul", same=True).changes(site, Region(np.arange(3)), derive(3, "law"))
    held = torch.tensor([1e-4, 1.0, 1e4], dtype=torch.float64)
    codes = bits.int_view(held)
    after = (codes ^ item.against(codes)).view(torch.float64) / held
    small, medium, large = after.tolist()
    assert small == pytest.approx(medium)  # imul: equal rows, but for alpha of the large one
    assert large != medium
    assert all(0.66 < factor < 1.5 for factor in after.tolist())


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["weights", "activations", "cache", "moments"]),
    shape=st.lists(st.integers(1, 6), max_size=5),
    where=st.sampled_from([*patterns.names(), "row:share=0.4", "block:rows=9,columns=2,share=0.5", "mbu:bits=40"]),
    address=st.integers(0, 2**31),
    width=st.sampled_from([4, 8, 16, 64]),
)
def test_every_pattern_holds_its_element_and_stays_within_the_site(
    kind: str, shape: list[int], where: str, address: int, width: int
) -> None:
    site = Site(kind, "x", tuple(shape), "any", width)
    element, bit = divmod(address % site.population, width)
    region = patterns.build(where).region(site, element, bit, derive(address, "p"))
    assert region.index.dtype == np.int64
    assert element in region.index
    assert region.index[0] >= 0
    assert region.index[-1] < site.numel
    assert (np.diff(region.index) > 0).all()
    if region.bits is not None:
        assert (region.bits != 0).all()
        assert region.bits[list(region.index).index(element)] >> bit & 1
        assert width == 64 or (region.bits >> width == 0).all()


def test_one_row_of_a_matrix_product_s_tile_is_not_two() -> None:
    tall = Site("activations", "x", (3, 7), "fp32", 32)  # tokens by features
    index = patterns.build("gemm-tile:rows=1,columns=99").region(tall, 10, 0, derive(0, "t")).index
    assert index.tolist() == list(range(7, 14))
