"""Where the codes of several tensors lie: tables of the parts that share a scale, as the kernels read them.

A *part* is a run of neighbouring elements with one scale and one low end: a tensor, a channel, or a group of a row. The
codes of all parts stand side by side in one memory, which gives every bit its address on a chip; their values stand in
another, where each tensor begins at a multiple of :data:`ALIGNED` elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALIGNED = 64  # values: libraries choose their fastest kernels for operands that begin at 16 bytes and more
FIELDS = 4  # columns of the table
_LANES = 1024  # elements of one program, at most


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """The tables, on the device; made once for tensors that stay where they are.

    Attributes:
        table: int64 (parts, FIELDS): first code, first value, elements, address of the source's first element.
        starts: int64 (parts,): first program of each part.
        firsts: int64 (parts,): first code of each part.
        owner: int64 (programs,): the part of each program.
        lanes: elements of one program, a power of two.
        codes: how many there are.
        values: elements of the memory that holds the values, gaps included.
        places: first code and first value of each tensor.
    """

    table: Tensor
    starts: Tensor
    firsts: Tensor
    owner: Tensor
    lanes: int
    codes: int
    values: int
    places: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.starts)

    @property
    def programs(self) -> int:
        """How many programs meet every element once."""
        return len(self.owner)

    @property
    def steps(self) -> int:
        """Steps of a binary search among the parts."""
        return self.count.bit_length()


def lay_out(sources: Sequence[int], spans: Sequence[np.ndarray], itemsize: int, device: torch.device) -> Parts:
    """Return the tables of tensors whose elements lie at ``sources``, split into parts of ``spans`` elements.

    Args:
        sources: address of each tensor's first element; 0 for tensors that are only decoded.
        spans: for each tensor the elements of its parts, in order, int64; none of them is zero.
        itemsize: bytes of an element of the sources.
        device: takes the tables.
    """
    counts = [int(span.sum()) for span in spans]
    code = np.cumsum([0, *counts])
    value = np.cumsum([0, *(-(-count // ALIGNED) * ALIGNED for count in counts)])
    sizes = np.concatenate([np.empty(0, np.int64), *spans])
    tensor = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
    first = np.cumsum(sizes) - sizes
    inner = first - code[:-1][tensor]
    table = np.stack([first, value[:-1][tensor] + inner, sizes, np.array([*sources, 0])[tensor] + itemsize * inner], 1)
    lanes = min(_LANES, 1 << max(5, int(sizes.max(initial=1) - 1).bit_length()))
    programs = -(-sizes // lanes)

    def there(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return Parts(
        table=there(table),
        starts=there(np.cumsum(programs) - programs),
        firsts=there(first),
        owner=there(np.repeat(np.arange(len(sizes)), programs)),
        lanes=lanes,
        codes=int(code[-1]),
        values=int(value[-1]),
        places=tuple(zip(code[:-1].tolist(), value[:-1].tolist(), strict=True)),
    )
