"""Which elements share one quantisation parameter: the whole tensor, a channel, or a group of neighbours in a row.

A *row* is everything under one index of dimension 0, flattened; a tensor of fewer than two dimensions is one row. A
parameter per tensor or channel broadcasts against the tensor. A parameter per group has shape (rows, groups): group g
of a row holds its elements ``g * size`` up to ``(g + 1) * size``, and the last one what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from holdfast.errors import InvalidConfig

Kind = Literal["tensor", "channel", "group"]


@dataclass(frozen=True, slots=True)
class Granularity:
    """``kind`` and, for groups, how many neighbouring elements share a parameter."""

    kind: Kind = "tensor"
    size: int = 32

    def __post_init__(self) -> None:
        if self.kind not in ("tensor", "channel", "group"):
            raise InvalidConfig(f"no granularity {self.kind!r}", hint="tensor, channel or group")
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
        dims = tuple(range(1 if self._per_channel(x.dim()) else 0, x.dim()))
        keep = self._per_channel(x.dim())
        return x.amin(dims, keepdim=keep), x.amax(dims, keepdim=keep)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a parameter of a tensor of ``shape``."""
        if self.kind == "group":
            rows, columns = rows_and_columns(shape)
            return rows, -(-columns // self.size)
        return (shape[0], *[1] * (len(shape) - 1)) if self._per_channel(len(shape)) else ()

    def spread(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        """Return ``value`` so that it broadcasts against a tensor of ``shape``."""
        if self.kind != "group":
            return value
        columns = rows_and_columns(shape)[1]
        return value.repeat_interleave(self.size, 1)[:, :columns].reshape(shape)

    def at(self, value: Tensor, index: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the parameters of the elements at flat ``index`` (int64, (n,)) of a tensor of ``shape``."""
        if value.dim() == 0:
            return value
        columns = rows_and_columns(shape)[1]
        if self.kind == "channel":
            return value.reshape(-1)[index // columns]
        row, column = index // columns, index % columns
        return value[row, column // self.size]

    def _per_channel(self, dims: int) -> bool:
        return self.kind == "channel" and dims > 1

    def _grouped(self, x: Tensor) -> Tensor:
        """Return ``x`` as (rows, groups, size); the last group of a row is filled up with its last element."""
        rows, columns = rows_and_columns(x.shape)
        flat = x.reshape(rows, columns)
        lacking = -columns % self.size
        if lacking:
            flat = flat[:, list(range(columns)) + [columns - 1] * lacking]
        return flat.view(rows, -1, self.size)


def rows_and_columns(shape: Sequence[int]) -> tuple[int, int]:
    """Return how many rows a tensor of ``shape`` has, and how many elements each of them."""
    total = 1
    for side in shape:
        total *= side
    rows = shape[0] if len(shape) > 1 else 1
    return rows, total // rows if rows else 0
