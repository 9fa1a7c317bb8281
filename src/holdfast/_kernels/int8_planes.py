"""Products of byte planes with int8 weights, as one implicit matrix product with exact int32 accumulators.

A convolution is the product of its weights with every window of the image. The windows are read where they lie in an
image of channels last, never gathered; a linear layer is a convolution of images of one pixel. The planes of one
residue meet each tile of weights together, so weights are read once, and what the planes give is shifted and added
modulo 2**32 in registers. Nothing here is a float.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.compiling import kernel


@kernel("rows", "wide", "taps", "columns", "groups", "blocks", "part")
def multiply_planes(
    images: tl.tensor, weights: tl.tensor, sums: tl.tensor,
    rows: tl.tensor, positions: tl.tensor, wide: tl.tensor, plane: tl.tensor, image: tl.tensor,
    down: tl.tensor, right: tl.tensor, taps: tl.tensor, columns: tl.tensor, tap_down: tl.tensor, tap_right: tl.tensor,
    run: tl.tensor, channels: tl.tensor, group: tl.tensor, groups: tl.tensor, blocks: tl.tensor, part: tl.tensor,
    PLANES: tl.constexpr, ABOVE: tl.constexpr, SPLIT: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Compute one tile of ``ROWS`` output positions and ``COLUMNS`` output channels of one group.

    Args:
        images: int8 (PLANES, images, height, width, channels), padded already.
        weights: int8 (groups * channels, taps, run).
        sums: int32 (images, groups * channels, positions), out; to be zero where SPLIT.
        rows: output positions of all images.
        positions: of one image.
        wide: output positions of one line.
        plane: bytes of a plane.
        image: bytes of an image.
        down: bytes from one output line to the next.
        right: bytes from one output position to the next.
        taps: stretches of neighbouring bytes that a window consists of.
        columns: of them in one line of the window.
        tap_down: bytes from one line of the window to the next.
        tap_right: bytes from one stretch to the next within a line.
        run: bytes of a stretch.
        channels: outputs of a group.
        group: bytes from one group's inputs to the next's.
        groups: how many there are.
        blocks: of INNER bytes in a stretch.
        part: blocks, counted over all stretches, of one program along the sum.
        PLANES: byte planes of a residue, lowest first.
        ABOVE: bits above the residue, 0, 8, 16 or 24, which are made to agree with its top bit.
        SPLIT: whether several programs add to one tile; then ABOVE is 0.
        ROWS: output positions of a tile.
        COLUMNS: output channels of a tile.
        INNER: bytes of a stretch that are multiplied at once.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    which, place = row // positions, row % positions
    base = which.to(tl.int64) * image + (place // wide) * down + (place % wide) * right
    tiles = tl.cdiv(channels, COLUMNS)
    own = tl.program_id(1) // tiles
    channel = (tl.program_id(1) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < channels
    window = images + base[:, None] + own.to(tl.int64) * group
    line = weights + (own * channels + channel).to(tl.int64)[None, :] * (taps * run)
    first = tl.program_id(2) * part
    zeros = tl.zeros([ROWS, COLUMNS], tl.int32)
    total, second, third, fourth = zeros, zeros, zeros, zeros
    tap, block = first // blocks, first % blocks
    across, down_by = tap % columns, tap // columns  # counted on from here: a division takes a dozen instructions
    for _ in range(first, tl.minimum(first + part, taps * blocks)):
        inner = block * INNER + tl.arange(0, INNER)
        inside = inner < run
        tile = tl.load(line + tap * run + inner[:, None], mask=inside[:, None] & known[None, :], other=0)
        there = window + down_by * tap_down + across * tap_right + inner[None, :]
        mask = real[:, None] & inside[None, :]
        total = tl.dot(tl.load(there, mask=mask, other=0), tile, total, out_dtype=tl.int32)
        if PLANES > 1:
            there += plane
            second = tl.dot(tl.load(there, mask=mask, other=0), tile, second, out_dtype=tl.int32)
        if PLANES > 2:
            there += plane
            third = tl.dot(tl.load(there, mask=mask, other=0), tile, third, out_dtype=tl.int32)
        if PLANES > 3:
            there += plane
            fourth = tl.dot(tl.load(there, mask=mask, other=0), tile, fourth, out_dtype=tl.int32)
        last = block + 1 == blocks  # counted on without branches, which would keep reads from running ahead
        block, tap = tl.where(last, 0, block + 1), tl.where(last, tap + 1, tap)
        ended = last & (across + 1 == columns)
        across = tl.where(ended, 0, tl.where(last, across + 1, across))
        down_by = tl.where(ended, down_by + 1, down_by)
    if PLANES > 1:
        total += second << 8
    if PLANES > 2:
        total += third << 16
    if PLANES > 3:
        total += fourth << 24
    start = (which.to(tl.int64) * groups * channels + own * channels) * positions + place
    where = sums + start[:, None] + channel.to(tl.int64)[None, :] * positions
    mask = real[:, None] & known[None, :]
    if SPLIT:
        tl.atomic_add(where, total, mask=mask, sem="relaxed")  # whole numbers modulo 2**32: the same in any order
    else:
        tl.store(where, (total << ABOVE) >> ABOVE, mask=mask)
