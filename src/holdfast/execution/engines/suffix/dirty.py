"""What differs from the golden pass: the cells of one trial, each whole or just the box that may differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.numerics import bits

Box = tuple[tuple[int, int], ...]  # half-open range of every dimension


@dataclass(slots=True)
class Dirty:
    """One cell that differs.

    Attributes:
        data: the cell's own tensor, or just the box.
        box: where ``data`` lies in the cell's own tensor; None when it is all of it.
    """

    data: Tensor
    box: Box | None = None


def whole(size: Sequence[int]) -> Box:
    """Return the box that is all of a tensor."""
    return tuple((0, length) for length in size)


def volume(box: Box) -> int:
    """Return the number of elements in a box."""
    return math.prod(high - low for low, high in box)


def cut(tensor: Tensor, box: Box) -> Tensor:
    """Return the view of ``tensor`` inside ``box``."""
    for dimension, (low, high) in enumerate(box):
        if high - low != tensor.shape[dimension]:
            tensor = tensor.narrow(dimension, low, high - low)
    return tensor


def relative(box: Box, frame: Box) -> Box:
    """Return ``box`` counted from the corner of ``frame``."""
    return tuple((low - start, high - start) for (low, high), (start, _) in zip(box, frame, strict=True))


def overlap(one: Box, other: Box) -> Box | None:
    """Return the box inside both, or None."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(low < high for low, high in common) else None


def hull(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around all ``boxes``."""
    return tuple((min(low for low, _ in pairs), max(high for _, high in pairs)) for pairs in zip(*boxes, strict=True))


def around(positions: Sequence[Tensor]) -> Box:
    """Return the box around elements given by their indices, one tensor (n,) for each dimension."""
    return tuple((int(index.min()), int(index.max()) + 1) for index in positions)


def equal(ours: Tensor, golden: Tensor) -> bool:
    """Say whether all bits are equal."""
    return torch.equal(bits.int_view(ours), bits.int_view(golden))


def differing(ours: Tensor, golden: Tensor) -> Box | None:
    """Return the box around the elements whose bits differ, or None when none do."""
    left, right = bits.int_view(ours), bits.int_view(golden)
    if torch.equal(left, right):
        return None
    if ours.dim() == 0:
        return ()
    if ours.numel() == 1:
        return whole(ours.shape)
    index = (left != right).nonzero()
    low, high = torch.aminmax(index, dim=0)
    return tuple((a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True))


def reshaped(box: Box, size: Sequence[int], target: Sequence[int]) -> Box:
    """Return a box of a contiguous tensor of shape ``target`` that holds ``box`` of the same tensor shaped ``size``."""
    if tuple(size) == tuple(target):
        return box
    first, last = _flat([low for low, _ in box], size), _flat([high - 1 for _, high in box], size)
    result: list[tuple[int, int]] = []
    for low, high, length in zip(_index(first, target), _index(last, target), target, strict=True):
        if any(a + 1 != b for a, b in result):  # a range above: all of what is below it
            result.append((0, length))
        else:
            result.append((low, high + 1))
    return tuple(result)


def _flat(index: Sequence[int], size: Sequence[int]) -> int:
    place = 0
    for step, length in zip(index, size, strict=True):
        place = place * length + step
    return place


def _index(place: int, size: Sequence[int]) -> list[int]:
    index = []
    for length in reversed(size):
        place, rest = divmod(place, length)
        index.append(rest)
    return index[::-1]
