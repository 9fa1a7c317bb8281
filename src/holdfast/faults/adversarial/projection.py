"""Projections of attacked codes onto a Hamming ball around the stored ones.

Stutz et al. (TPAMI 2022, adversarial bit errors): one flip per weight, at its most significant differing bit, in the
weights that moved most. Unlike the pieces in their release these take a budget of nothing and of everything, compute
differences without wrapping, and compare integers as integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig


def msb_projection(before: Tensor, after: Tensor, width: int) -> Tensor:
    """Return int64 XOR masks of only the most significant bit in which two codes differ; 0 where they do not.

    Args:
        before: integer codes, any shape.
        after: integer codes of the same shape.
        width: bits of a code, 1..64; what lies above them, such as the copies of a sign, is ignored.

    Raises:
        InvalidConfig: the shapes differ.
    """
    if before.shape != after.shape:
        raise InvalidConfig(f"{tuple(before.shape)} codes do not fit {tuple(after.shape)}")
    return highest_bits(differing_bits(before, after, width))


def differing_bits(before: Tensor, after: Tensor, width: int) -> Tensor:
    """Return int64 masks of the bits below ``width`` in which two integer codes of one shape differ."""
    differing = before.to(torch.int64) ^ after.to(torch.int64)
    return differing & ((1 << width) - 1) if width < 64 else differing


def highest_bits(words: Tensor) -> Tensor:
    """Return int64 masks of the most significant bit that is set in each of ``words`` (int64); 0 where none is."""
    for shift in (1, 2, 4, 8, 16, 32):  # every bit below the highest becomes one
        words = words | _shifted(words, shift)
    return words ^ _shifted(words, 1)


def hamming_projection(before: Tensor, after: Tensor, budget: int, width: int) -> Tensor:
    """Return int64 XOR masks, shaped like ``before``, of at most ``budget`` flips and at most one per element.

    The elements of largest ``|after - before|``, read as numbers, keep their most significant differing bit; all
    others are restored. Of equal differences the first elements win.

    Raises:
        InvalidConfig: the shapes differ, or the budget is negative.
    """
    masks = msb_projection(before, after, width)
    return torch.where(largest(code_distance(before, after), budget), masks, 0)


def code_distance(before: Tensor, after: Tensor) -> Tensor:
    """Return ``|after - before|`` of integer codes; int64, saturating for 64-bit codes that lie further apart."""
    difference = after.to(torch.int64) - before.to(torch.int64)
    wrapped = (difference < 0) != (after < before)
    return torch.where(wrapped | (difference == -(2**63)), 2**63 - 1, difference.abs())


def largest(distance: Tensor, count: int) -> Tensor:
    """Return where the ``count`` largest positive entries of ``distance`` stand, bool; ties go to the first.

    Raises:
        InvalidConfig: a negative count.
    """
    if count < 0:
        raise InvalidConfig(f"a budget is not negative, as {count} is")
    flat, kept = distance.reshape(-1), torch.zeros(distance.numel(), dtype=torch.bool, device=distance.device)
    moved = (flat > 0).nonzero().view(-1)
    order = flat[moved].sort(descending=True, stable=True).indices[:count]
    kept[moved[order]] = True
    return kept.view(distance.shape)


def best_rows(distance: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return which entries lie in the ``count`` rows whose distances sum to most, bool, shaped like ``distance``.

    ``rows`` holds the int64 row of each entry; of equal sums the lower rows win.
    """
    known, inverse = rows.reshape(-1).unique(return_inverse=True)
    total = distance.new_zeros(len(known), dtype=torch.float64)
    total.index_add_(0, inverse, distance.double().reshape(-1))
    chosen = torch.zeros_like(known, dtype=torch.bool)
    chosen[total.sort(descending=True, stable=True).indices[:count]] = True
    return chosen[inverse].view(distance.shape)


def split_by_size(places: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split ascending ``places`` in tensors of ``sizes`` that lie end to end into the places within each of them."""
    ends = list(accumulate(sizes))
    cuts = torch.searchsorted(places, torch.tensor(ends, device=places.device)).tolist()
    parts = places.tensor_split(cuts[:-1])
    return [part - (end - size) for part, end, size in zip(parts, ends, sizes, strict=True)]


def _shifted(words: Tensor, shift: int) -> Tensor:
    """Shift right without copying the sign, which is bit 63 here."""
    return (words >> shift) & ((1 << (64 - shift)) - 1)
