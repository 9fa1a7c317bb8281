"""Projections against brute force over Python integers, for every width, and at both ends of the budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial.projection import best_rows, code_distance, hamming_projection, largest, msb_projection
from holdfast.numerics import bits
from holdfast.seeds import derive

WIDTHS = {torch.uint8: (2, 3, 8), torch.int8: (2, 4, 8), torch.int16: (16,), torch.int32: (32,), torch.int64: (64,)}
CASES = [(dtype, width) for dtype, widths in WIDTHS.items() for width in widths]


def codes(dtype: torch.dtype, width: int, count: int, *path: str) -> Tensor:
    """Random codes of ``width`` bits as the formats store them: sign-extended when signed."""
    raw = derive(0, *path, width).numpy().integers(0, 2**width, count, dtype="uint64").astype("int64")
    if dtype != torch.uint8 and width < 64:
        raw = raw - (raw >= 2 ** (width - 1)) * 2**width
    return torch.from_numpy(raw).to(dtype)


def highest(one: int, other: int, width: int) -> int:
    """The highest differing bit as a mask, by hand."""
    differing = (one ^ other) & (2**width - 1)
    return 1 << (differing.bit_length() - 1) if differing else 0


def unsigned(value: int) -> int:
    return value % 2**64


@pytest.mark.parametrize(("dtype", "width"), CASES)
def test_msb_projection_is_the_highest_differing_bit(dtype: torch.dtype, width: int) -> None:
    before, after = codes(dtype, width, 400, "a"), codes(dtype, width, 400, "b")
    masks = msb_projection(before, after, width)
    expected = [highest(a, b, width) for a, b in zip(before.tolist(), after.tolist(), strict=True)]
    assert [unsigned(mask) for mask in masks.tolist()] == expected
    assert not msb_projection(before, before, width).any()


def test_the_one_bit_moves_towards_the_target_but_need_not_reach_it() -> None:
    before, after = torch.tensor([0b0101], dtype=torch.uint8), torch.tensor([0b1110], dtype=torch.uint8)
    moved = before ^ msb_projection(before, after, 8).to(torch.uint8)
    assert moved.item() == 0b1101


@pytest.mark.parametrize(("dtype", "width"), CASES)
@pytest.mark.parametrize("budget", [0, 1, 3, 11, 12, 1000])
def test_hamming_projection_is_brute_force(dtype: torch.dtype, width: int, budget: int) -> None:
    before, after = codes(dtype, width, 12, "a").view(3, 4), codes(dtype, width, 12, "b").view(3, 4)
    masks = hamming_projection(before, after, budget, width)
    pairs = list(zip(before.view(-1).tolist(), after.view(-1).tolist(), strict=True))
    order = sorted(range(12), key=lambda k: (-min(abs(pairs[k][1] - pairs[k][0]), 2**63 - 1), k))[:budget]
    expected = [highest(*pairs[k], width) if k in order else 0 for k in range(12)]
    assert masks.shape == before.shape
    assert [unsigned(mask) for mask in masks.view(-1).tolist()] == expected
    assert int(bits.popcount(masks).sum()) <= budget
    assert int(bits.popcount(masks).max()) <= 1


def test_no_point_of_the_ball_with_one_msb_flip_per_weight_is_nearer_to_the_target() -> None:
    """Of all ways to keep at most two elements, the projection leaves the least sum of what was given up."""
    before, after = codes(torch.int8, 8, 6, "a"), codes(torch.int8, 8, 6, "b")
    kept = hamming_projection(before, after, 2, 8) != 0
    distance = (after.int() - before.int()).abs()
    every = [distance[torch.tensor([i, j])].sum() for i in range(6) for j in range(i)]
    assert distance[kept].sum() == max(every)


def test_ties_go_to_the_first_elements() -> None:
    before, after = torch.zeros(5, dtype=torch.uint8), torch.tensor([4, 0, 4, 4, 4], dtype=torch.uint8)
    assert (hamming_projection(before, after, 2, 8) != 0).tolist() == [True, False, True, False, False]


def test_sign_bits_and_wide_differences_do_not_wrap() -> None:
    """The release subtracts in uint8, where 0 - 200 is 56."""
    before, after = torch.tensor([200, 0], dtype=torch.uint8), torch.tensor([0, 100], dtype=torch.uint8)
    assert code_distance(before, after).tolist() == [200, 100]
    ends = torch.tensor([-(2**63), 2**63 - 1])
    assert code_distance(ends, ends.flip(0)).tolist() == [2**63 - 1] * 2


def test_differences_of_int32_codes_are_compared_exactly() -> None:
    """In float32, as the release compares them, 2^24 + 1 equals 2^24."""
    before, after = torch.zeros(2, dtype=torch.int32), torch.tensor([2**24, 2**24 + 1], dtype=torch.int32)
    assert (hamming_projection(before, after, 1, 32) != 0).tolist() == [False, True]


def test_bad_budgets_and_shapes_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="not negative"):
        largest(torch.ones(3), -1)
    with pytest.raises(InvalidConfig, match="do not fit"):
        msb_projection(torch.zeros(3, dtype=torch.uint8), torch.zeros(4, dtype=torch.uint8), 8)


def test_best_rows_are_those_with_the_largest_sums() -> None:
    distance, rows = torch.tensor([5, 1, 3, 3, 2]), torch.tensor([7, 9, 8, 8, 9])
    assert best_rows(distance, rows, 1).tolist() == [False, False, True, True, False]
    assert best_rows(distance, rows, 2).tolist() == [True, False, True, True, False]
    assert best_rows(distance, rows, 9).all()
