"""Copies of where ranges begin: a prefix, which lies elsewhere, and what follows it up to the end of a chunk."""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.compiling import kernel

PIECES = 5  # columns of the table


@kernel()
def fill_heads(
    table: tl.tensor, prefixes: tl.tensor, heads: tl.tensor, LANES: tl.constexpr, PIECES: tl.constexpr  # noqa: N803
) -> None:  # fmt: skip
    """Fill the head of one range per program.

    Args:
        table: int64 (ranges, PIECES): address of the range's own bytes, first byte of its prefix, bytes of that, first
            byte of its head, bytes of that.
        prefixes: uint8, one after the other.
        heads: uint8, out.
        LANES: bytes copied at once.
        PIECES: columns of ``table``.
    """
    row = table + tl.program_id(0).to(tl.int64) * PIECES
    own = tl.load(row).to(tl.pointer_type(tl.uint8), bitcast=True)
    before, length, head, size = tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    for first in range(0, size, LANES):
        place = first + tl.arange(0, LANES)
        inside, mine = place < size, place >= length
        prefix = tl.load(prefixes + before + place, mask=inside & (mine == 0), other=0)
        value = tl.load(own + (place - length), mask=inside & mine, other=0)
        tl.store(heads + head + place, tl.where(mine, value, prefix), mask=inside)
