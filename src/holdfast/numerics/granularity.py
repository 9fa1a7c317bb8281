"""Which elements share one quantisation parameter: the tensor, a channel, a group of neighbours in a row, or a tile.

A *row* is everything under one index of dimension 0, flattened, or the last axis; a tensor of fewer than two
dimensions is one row. A parameter per tensor or channel broadcasts against the tensor. A parameter per group has shape
(rows, groups): group g of a row holds its elements ``g * size`` up to ``(g + 1) * size``, and the last one what is
left. A tile is ``size`` neighbouring elements in each of ``size`` neighbouring rows; its parameter has shape (ceil(rows
/ size), ceil(columns / size)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig

Kind = Literal["tensor", "channel", "group", "tile"]
Along = Literal["row", "last"]


@dataclass(frozen=True, slots=True)
class Granularity:
    """``kind`` and, for groups and tiles, how many neighbouring elements share a parameter, and what a row is."""

    kind: Kind = "tensor"
    size: int = 32
    along: Along = "row"  # what is under one index of dimension 0, flattened; or the last axis

    def __post_init__(self) -> None:
        if self.kind not in ("tensor", "channel", "group", "tile"):
            raise InvalidConfig(f"no granularity {self.kind!r}", hint="tensor, channel, group or tile")
        if self.along not in ("row", "last"):
            raise InvalidConfig(f"no groups along {self.along!r}", hint="row or last")
        if self.size < 1:
            raise InvalidConfig(f"a group holds at least one element, not {self.size}")

    def extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest value of each part of ``x``, shaped as a parameter is."""
        if x.numel() == 0:
            empty = x.new_zeros(self.shape(x.shape))
            return empty, empty
        if self.kind == "group":
            grouped = self._grouped(x)
            return grouped.amin(-1), grouped.amax(-1)
        if self.kind == "tile":
            tiled = self._tiled(x)
            return tiled.amin((1, 3)), tiled.amax((1, 3))
        dims = tuple(range(1 if self._per_channel(x.dim()) else 0, x.dim()))
        keep = self._per_channel(x.dim())
        return x.amin(dims, keepdim=keep), x.amax(dims, keepdim=keep)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a parameter of a tensor of ``shape``."""
        if self.kind == "group":
            rows, columns = rows_and_columns(shape, self.along)
            return rows, -(-columns // self.size)
        if self.kind == "tile":
            rows, columns = rows_and_columns(shape, self.along)
            return -(-rows // self.size), -(-columns // self.size)
        return (shape[0], *[1] * (len(shape) - 1)) if self._per_channel(len(shape)) else ()

    def spread(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Return ``value`` so that it broadcasts against a tensor of ``shape``."""
        if self.kind not in ("group", "tile"):
            return value
        rows, columns = rows_and_columns(shape, self.along)
        if self.kind == "tile":
            value = value.repeat_interleave(self.size, 0)[:rows]
        return value.repeat_interleave(self.size, 1)[:, :columns].reshape(shape)

    def at(self, value: Tensor, index: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the parameters of the elements at flat ``index`` (int64, (n,)) of a tensor of ``shape``."""
        if value.dim() == 0:
            return value
        if self.kind == "channel":
            return value.reshape(-1)[index // rows_and_columns(shape)[1]]
        columns = rows_and_columns(shape, self.along)[1]
        row, column = index // columns, index % columns
        return value[row // self.size if self.kind == "tile" else row, column // self.size]

    def _per_channel(self, dims: int) -> bool:
        return self.kind == "channel" and dims > 1

    def _grouped(self, x: Tensor) -> Tensor:
        """Return ``x`` as (rows, groups, size); the last group of a row is filled up with its last element."""
        rows, columns = rows_and_columns(x.shape, self.along)
        flat = x.reshape(rows, columns)
        lacking = -columns % self.size
        if lacking:
            flat = flat[:, list(range(columns)) + [columns - 1] * lacking]
        return flat.view(rows, -1, self.size)

    def _tiled(self, x: Tensor) -> Tensor:
        """Return ``x`` as (tiles, size, tiles, size); the last row and column fill the tiles at the edges."""
        rows, columns = rows_and_columns(x.shape, self.along)
        down, across = self.shape(x.shape)
        row = torch.arange(down * self.size, device=x.device).clamp(max=rows - 1)
        column = torch.arange(across * self.size, device=x.device).clamp(max=columns - 1)
        return x.reshape(rows, columns)[row][:, column].view(down, self.size, across, self.size)


def rows_and_columns(shape: Sequence[int], along: Along = "row") -> tuple[int, int]:
    """Return how many rows a tensor of ``shape`` has, and how many elements each of them."""
    total = math.prod(shape)
    if along == "last" and shape:
        return (total // shape[-1] if shape[-1] else 0), shape[-1]
    rows = shape[0] if len(shape) > 1 else 1
    return rows, total // rows if rows else 0
