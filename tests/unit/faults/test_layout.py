"""Layouts are bijections, at any size, and mean the bank, row and column that they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig, UnknownName
from holdfast.faults.layout import DEFAULT, LAYOUTS, Layout, layout_of

TEXTS = [
    DEFAULT,
    "linear/2x4x8/offset=7",
    "interleaved/4x8x16/stripe=8",
    "interleaved/3x5x7/stripe=5/offset=11",
    "multiplexed/2x3x24/word=8",
    "tiled/2x6x8/height=3/width=2",
    "tiled/1x512x64/offset=100",
    "ecc/1x16x72",
    "ecc/2x5x7/data=4/check=3/offset=3",
]


@pytest.mark.parametrize("text", TEXTS)
@given(start=st.integers(0, 2**58), size=st.integers(1, 500))
@settings(deadline=None, max_examples=40)
def test_a_bit_is_found_where_it_was_put(text: str, start: int, size: int) -> None:
    layout = layout_of(text)
    bits = np.arange(start, start + size)
    cells = layout.cells(bits)
    assert len(np.unique(cells)) == size
    assert cells.min() >= 0
    assert cells.max() < layout.extent(start + size)
    assert np.array_equal(layout.bits(cells), bits)


@pytest.mark.parametrize("text", TEXTS)
def test_every_cell_holds_one_bit_or_none(text: str) -> None:
    layout = layout_of(text)
    size = 3 * layout.die
    cells = np.arange(layout.extent(size))
    bits = layout.bits(cells)
    held = np.sort(bits[(bits >= 0) & (bits < size)])
    assert np.array_equal(held, np.arange(size))
    assert np.array_equal(layout.cells(bits[bits >= 0]), cells[bits >= 0])


def place(text: str, bit: int) -> tuple[int, int, int, int]:
    layout = layout_of(text)
    cell = int(layout.cells(np.array([bit]))[0])
    die, cell = divmod(cell, layout.die)
    bank, cell = divmod(cell, layout.bank)
    return die, bank, *divmod(cell, layout.columns)


@pytest.mark.parametrize(
    ("text", "bit", "expected"),
    [
        ("linear/2x4x8", 0, (0, 0, 0, 0)),
        ("linear/2x4x8", 43, (0, 1, 1, 3)),
        ("linear/2x4x8/offset=5", 64, (1, 0, 0, 5)),
        ("interleaved/4x2x16/stripe=8", 8, (0, 1, 0, 0)),
        ("interleaved/4x2x16/stripe=8", 33, (0, 0, 0, 9)),
        ("interleaved/4x2x16/stripe=8", 128, (1, 0, 0, 0)),
        ("multiplexed/1x2x32/word=8", 1, (0, 0, 0, 4)),
        ("multiplexed/1x2x32/word=8", 8, (0, 0, 0, 1)),
        ("tiled/1x4x8/height=2/width=4", 5, (0, 0, 1, 1)),
        ("tiled/1x4x8/height=2/width=4", 8, (0, 0, 0, 4)),
        ("tiled/1x4x8/height=2/width=4", 16, (0, 0, 2, 0)),
        ("ecc/1x2x72", 64, (0, 0, 1, 0)),
        ("ecc/1x2x72", 63, (0, 0, 0, 63)),
    ],
)
def test_places_by_hand(text: str, bit: int, expected: tuple[int, int, int, int]) -> None:
    assert place(text, bit) == expected


def test_no_more_banks_than_needed() -> None:
    assert [layout_of("linear/4x8x8").extent(bits) for bits in (0, 1, 64, 65)] == [0, 64, 64, 128]
    assert layout_of("interleaved/4x8x8/stripe=8").extent(1) == 256
    assert layout_of("ecc/2x8x9/data=8/check=1").extent(65) == 144


def test_check_cells_hold_no_bit() -> None:
    assert layout_of("ecc/1x1x72").bits(np.arange(60, 76)).tolist() == [60, 61, 62, 63, *[-1] * 8, 64, 65, 66, 67]


def test_before_the_offset_there_is_no_bit() -> None:
    assert (layout_of("linear/1x1x8/offset=4").bits(np.arange(4)) < 0).all()


def test_all_layouts_are_tested() -> None:
    assert {text.split("/")[0] for text in TEXTS} == set(LAYOUTS)
    assert layout_of("linear") == Layout()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear/2x4", "cannot read"),
        ("linear/2x4xa", "not a number"),
        ("linear/0x4x8", "whole number"),
        ("linear/-1x4x8", "whole number"),
        ("linear/1x1x8/offset=-1", "whole number"),
        ("linear/1x1x8/8", "cannot read"),
        ("linear/1x1x8/rows=2", "cannot read"),
        ("linear/1x1x8/stripe=2", "no option"),
        ("tiled/1x4x8/width=3", "does not divide"),
        ("tiled/1x4x8/height=3", "does not divide"),
        ("interleaved/2x3x5/stripe=4", "does not divide"),
        ("multiplexed/2x3x5/word=2", "does not divide"),
        ("linear/1x1048576x1048577", "too large"),
        ("ecc/1x512x64/offset=1099511627776/data=1/check=1073741824", "beyond cell 2"),
        ("ecc/1x512x64/data=1/check=1152921504606846976", "beyond cell 2"),
    ],
)
def test_bad_layouts(text: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        layout_of(text)


def test_a_population_too_large_to_count_is_refused() -> None:
    layout = layout_of("ecc/1x512x64/data=1/check=131072")
    assert layout.extent(2**44) > 2**60
    assert layout.bits(layout.cells(np.array([2**44]))).tolist() == [2**44]
    with pytest.raises(InvalidConfig, match="beyond cell 2"):
        layout.extent(2**50)


def test_an_unknown_layout_has_a_neighbour() -> None:
    with pytest.raises(UnknownName) as caught:
        layout_of("tilde/1x2x3")
    assert "tiled" in caught.value.hint
