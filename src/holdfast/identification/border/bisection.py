"""From two images of different class to two neighbours on the pixel lattice that still differ in class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Labels = Callable[[Tensor], Tensor]  # uint8 images (n, c, h, w) -> int64 labels (n,)


@dataclass(frozen=True)
class Crossing:
    """Two stored images that differ by one step of one pixel and in class.

    Attributes:
        near: uint8 (c, h, w), of class ``label``.
        far: its neighbour, of class ``other``.
    """

    near: Tensor
    far: Tensor
    label: int
    other: int


def bisect(labels: Labels, start: Tensor, end: Tensor, *, width: int = 16) -> Crossing | None:
    """Narrow the line between two images, then the pixels that are left, ``width`` cuts at a time.

    A cut into 17 parts by a batch of 16 costs what one image costs where a batch is computed in full anyway, and saves
    three of four rounds of halving.

    Args:
        labels: what is asked; one platform, or the mean of two.
        start: uint8 (c, h, w).
        end: of the same shape.

    Returns:
        The crossing, or None where both ends have one class.
    """
    ends = torch.stack((start, end))
    first, last = labels(ends).tolist()
    if first == last:
        return None
    state = _State(labels, start, end, int(first), int(last))
    while (state.low != state.high).sum() > width or (state.low.int() - state.high.int()).abs().max() > 1:
        before = (state.low, state.high)
        state = state.narrowed(_between(*before, width))
        if torch.equal(before[0], state.low) and torch.equal(before[1], state.high):
            break  # rounding leaves nothing between the two but single pixels
    while state.distance > 1:
        state = state.narrowed(_single_steps(state.low, state.high, width))
    return Crossing(state.low, state.high, state.label, state.other)


@dataclass(frozen=True)
class _State:
    labels: Labels
    low: Tensor
    high: Tensor
    label: int
    other: int

    @property
    def distance(self) -> int:
        """Steps of single pixels from one end to the other."""
        return int((self.low.int() - self.high.int()).abs().sum())

    def narrowed(self, cuts: Tensor) -> _State:
        """Keep the part in which the class first stops being that of the lower end."""
        found = self.labels(cuts)
        changed = (found != self.label).nonzero()
        place = int(changed[0]) if len(changed) else len(cuts)
        low = cuts[place - 1] if place else self.low
        high = cuts[place] if place < len(cuts) else self.high
        other = int(found[place]) if place < len(cuts) else self.other
        return _State(self.labels, low, high, self.label, other)


def _between(low: Tensor, high: Tensor, width: int) -> Tensor:
    shares = torch.linspace(0, 1, width + 2)[1:-1].view(-1, 1, 1, 1)
    return (low.float() + shares * (high.float() - low.float())).round().to(torch.uint8)


def _single_steps(low: Tensor, high: Tensor, width: int) -> Tensor:
    """Return images on a path of single-pixel steps from ``low`` to ``high``, about evenly spaced."""
    apart = (high.int() - low.int()).flatten()
    distance = int(apart.abs().sum())
    count = min(width, distance - 1)
    images = []
    for number in range(1, count + 1):
        left = number * distance // (count + 1)
        # the first pixels move all of their way, one of them part of it, the rest none
        used = (apart.abs().cumsum(0) - apart.abs()).clamp(max=left)
        moved = torch.minimum(apart.abs(), left - used)
        images.append((low.int().flatten() + apart.sign() * moved).view_as(low).to(torch.uint8))
    return torch.stack(images)
