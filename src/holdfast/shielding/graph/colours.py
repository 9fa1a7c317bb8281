"""Colours of samples, one byte to an element: what it depends on is none, one and which, or several.

Every sample has a colour: a byte with four bits set. Two colours together have five bits or more.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

COLOURS = tuple(sum(1 << bit for bit in bits) for bits in itertools.combinations(range(8), 4))


def coloured(samples: Tensor) -> Tensor:
    """Return the colours of ``samples`` (batch, ...): uint8, each row its own; at most 70 rows.

    Raises:
        ValueError: more rows than colours.
    """
    if len(samples) > len(COLOURS):
        raise ValueError(f"there are {len(COLOURS)} colours, and {len(samples)} samples")
    rows = torch.tensor(COLOURS[: len(samples)], dtype=torch.uint8)
    return rows.view(-1, *[1] * (samples.dim() - 1)).expand(samples.shape)


def is_apart(colours: Tensor, batch: int) -> bool:
    """Say whether a value of ``batch`` rows has in each row its own colour and none else."""
    own = torch.tensor(COLOURS[:batch], dtype=torch.uint8).view(-1, *[1] * (colours.dim() - 1))
    return bool(((colours == own) | (colours == 0)).all())


def is_mixed(colours: Tensor) -> bool:
    """Say whether an element has several colours."""
    bits = torch.tensor([bin(byte).count("1") > 4 for byte in range(256)])
    return bool(bits[colours.unique().long()].any())


def joined(colours: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the colours along ``dims`` together, which become sides of 1."""
    axes = tuple(dims)
    if not axes or not colours.dim():
        return colours
    if not colours.numel():
        return colours.new_zeros([1 if dim in axes else side for dim, side in enumerate(colours.shape)])
    most = colours.amax(axes, keepdim=True)
    if torch.equal(most, colours.amin(axes, keepdim=True)):  # one colour each: the usual case, in an eighth of the time
        return most
    found = torch.zeros_like(most)
    for bit in range(8):
        found |= ((colours >> bit) & 1).amax(axes, keepdim=True) << bit
    return found


def blank(value: Any) -> Any:
    """Return the colours of a constant, or of what was made of none: none; what is no tensor stays itself."""
    return torch.zeros((), dtype=torch.uint8).expand(value.shape) if isinstance(value, Tensor) else value
