"""Words of a memory: every bit lies in exactly one, short ones included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.faults.protection.addresses import addresses_of, either, flips_at, masks_at, runs
from holdfast.faults.protection.layout import Layout
from holdfast.models.site import Site

CASES = [(8, 100, 64, 1), (4, 33, 64, 3), (32, 5, 13, 2), (64, 3, 128, 1), (8, 1, 64, 4), (3, 50, 7, 5)]


@pytest.mark.parametrize(("bits", "numel", "word", "ways"), CASES)
def test_places_and_addresses_are_inverse(bits: int, numel: int, word: int, ways: int) -> None:
    layout = Layout(Site("weights", "w", (numel,), "x", bits), word, ways)
    every = np.arange(bits * numel)
    number, position = layout.places(every)
    assert np.array_equal(layout.addresses(number, position), every)
    assert len(set(zip(number.tolist(), position.tolist(), strict=True))) == bits * numel
    assert number.max() + 1 == layout.words == sum(layout.lengths().values())
    counts = np.bincount(np.bincount(number))
    assert {length: int(counts[length]) for length in np.flatnonzero(counts)} == layout.lengths()
    element, mask = layout.cleared(np.arange(layout.words))
    assert np.array_equal(element, np.arange(numel))
    assert (mask == (-1 if bits == 64 else 2**bits - 1)).all()
    for absent in (word, word + 3):
        assert (layout.addresses(np.arange(layout.words), np.full(layout.words, absent)) == -1).all()


@pytest.mark.parametrize(("bits", "numel", "word", "ways"), CASES)
def test_octets_hold_the_bits_of_a_word(bits: int, numel: int, word: int, ways: int) -> None:
    site = Site("weights", "w", (numel,), "x", bits)
    codes = torch.tensor([k * 0x9E3779B97F4A7C15 % 2 ** min(bits, 63) for k in range(1, numel + 1)])
    layout = Layout(site, word, ways)
    octets = layout.octets(codes, np.arange(layout.words))
    rows = np.unpackbits(octets, axis=1, bitorder="little")
    for number, position in np.ndindex(layout.words, word):
        (address,) = layout.addresses(np.array([number]), np.array([position]))
        held = 0 if address < 0 else int(codes[address // bits]) >> int(address % bits) & 1
        assert rows[number, position] == held
    some = np.array([0, layout.words - 1])
    assert np.array_equal(layout.octets(codes, some), octets[some])


def test_the_fast_view_and_the_gathering_agree() -> None:
    codes = torch.arange(-100, 103, dtype=torch.int16)
    layout = Layout(Site("weights", "w", (203,), "fp16", 16), 64)
    every = np.arange(layout.words)
    assert np.array_equal(layout.octets(codes, every), layout.octets(codes.to(torch.int64), every))


def test_a_burst_as_long_as_the_ways_is_one_error_in_each_word() -> None:
    layout = Layout(Site("weights", "w", (64,), "int8", 8), 64, ways=8)
    for start in range(0, 500, 7):
        word, _ = layout.places(np.arange(start, min(start + 8, 512)))
        assert len(set(word.tolist())) == len(word)


def test_no_words_of_nothing() -> None:
    with pytest.raises(InvalidConfig, match="cannot be laid out"):
        Layout(Site("weights", "w", (1,), "int8", 8), 0)


def test_addresses_become_changes_and_changes_addresses() -> None:
    site = Site("weights", "w", (9,), "fp64", 64)
    flipped, fallen = np.array([0, 63, 64, 300]), np.array([1, 575])
    item = flips_at(site, flipped, masks_at(site, fallen))
    assert item is not None
    assert item.index.tolist() == [0, 1, 4, 8]
    ones = torch.full((9,), -1, dtype=torch.int64)
    assert addresses_of(item, lambda index: ones[index]).tolist() == [0, 1, 63, 64, 300, 575]
    assert addresses_of(item, lambda index: ones[index] * 0).tolist() == flipped.tolist()
    assert either(flipped, np.array([63, 301])).tolist() == [0, 64, 300, 301]
    assert flips_at(site, np.empty(0, np.int64)) is None


def test_runs_of_a_sorted_array() -> None:
    values, counts = runs(np.array([-1, -1, 0, 4, 4, 4]))
    assert (values.tolist(), counts.tolist()) == ([-1, 0, 4], [2, 1, 3])
    assert [len(part) for part in runs(np.empty(0, np.int64))] == [0, 0]
