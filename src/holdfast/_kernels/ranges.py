"""Range restriction in one pass over the values: what leaves its range is replaced in place and counted by sample."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from holdfast._kernels.compiling import kernel

CLIP, ZERO, RESAMPLE = 0, 1, 2
_LANES = 2048


@kernel()
def _bound(
    block: tl.tensor,
    lane: tl.tensor,
    inner: tl.tensor,
    bounds: tl.tensor,
    LANES: tl.constexpr,  # noqa: N803
) -> tl.tensor:
    """Return which range each value has, int64 (LANES,); for each value it divides 32 bits, or nothing."""
    first = block.to(tl.int64) * LANES
    place, which = first % inner + lane, (first // inner) % bounds + tl.zeros([LANES], tl.int64)
    if inner >= LANES:
        which += (place >= inner).to(tl.int64)
    else:
        which += (place.to(tl.int32) // inner).to(tl.int64)
    return (
        tl.where(which >= bounds, which - bounds, which)
        if bounds >= LANES
        else (which.to(tl.int32) % bounds).to(tl.int64)
    )


@kernel("size", "inner", "bounds", "parts")
def restrict(
    values: tl.tensor, table: tl.tensor, events: tl.tensor,
    size: tl.tensor, inner: tl.tensor, bounds: tl.tensor, parts: tl.tensor,
    ACTION: tl.constexpr, KEEP: tl.constexpr, ONE: tl.constexpr, EVEN: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Replace what lies outside its range.

    Args:
        values: any float, (samples, size), in and out; only what is replaced is written.
        table: of the same dtype, (3, bounds): least, greatest, mean.
        events: int32 (samples, parts), out: replaced values of each program.
        size: values of a sample.
        inner: neighbouring values that share a bound.
        bounds: how many there are; they repeat.
        parts: programs of a sample.
        ACTION: 0 to clip, 1 for zero, 2 for the mean.
        KEEP: whether NaN is left alone and not counted.
        ONE: whether there is one range only, which spares the division.
        EVEN: whether 16 divides ``size``, so that values of every sample are read 16 bytes at a time.
        LANES: values of one program.
    """
    program, lane = tl.program_id(0), tl.arange(0, LANES)
    sample, block = (program // parts).to(tl.int64), program % parts
    start = sample * size
    start = tl.multiple_of(start, 16) if EVEN else start
    left = tl.minimum(size - block.to(tl.int64) * LANES, LANES).to(tl.int32)
    where = values + start + block.to(tl.int64) * LANES + lane
    value = tl.load(where) if left >= LANES else tl.load(where, mask=lane < left, other=0)  # a mask makes reads narrow
    which = tl.zeros([LANES], tl.int32) if ONE else _bound(block, lane, inner, bounds, LANES)
    low, high = tl.load(table + which), tl.load(table + bounds + which)
    wide = tl.float64 if value.dtype == tl.float64 else tl.float32  # holds every narrower value exactly
    x, least, most = value.to(wide), low.to(wide), high.to(wide)
    wrong = ((x < least) | (x > most)) if KEEP else ((x >= least) & (x <= most)) == 0
    if left < LANES:
        wrong = wrong & (lane < left)
    count = tl.sum(wrong.to(tl.int32), 0)
    if count > 0:
        if ACTION == 0:
            below = (x < least) | ((x != x) & (least > 0))
            above = (x > most) | ((x != x) & (most < 0))
            fixed = tl.where(below, low, tl.where(above, high, tl.zeros_like(value)))
        elif ACTION == 1:
            fixed = tl.zeros_like(value)
        else:
            fixed = tl.load(table + 2 * bounds + which)
        tl.store(where, fixed, mask=wrong)
    tl.store(events + program, count)


def restrict_(values: Tensor, table: Tensor, *, samples: int, inner: int, action: int, keep: bool) -> Tensor:
    """Replace, in place, what lies outside its range; return how many values did, int32, shape (samples, parts).

    A sample's are the sum over its parts, which is left to whoever asks. Nothing is waited for, and where all is well
    nothing but these counts is written.

    Args:
        values: any float dtype, contiguous, the samples first.
        table: of the same dtype and device, shape (3, n): least, greatest and mean of the n ranges.
        samples: how many there are.
        inner: neighbouring values that share a range; the ranges repeat.
        action: ``CLIP``, ``ZERO`` or ``RESAMPLE``.
        keep: whether NaN is left alone and not counted.
    """
    size = values.numel() // max(samples, 1)
    parts = -(-size // _LANES)
    events = torch.empty(samples, parts, dtype=torch.int32, device=values.device)
    if samples * parts:
        with torch.cuda.device_of(values):
            restrict[(samples * parts,)](
                values, table, events, size, inner, table.shape[1], parts,
                ACTION=action, KEEP=keep, ONE=table.shape[1] == 1, EVEN=size % 16 == 0, LANES=_LANES,
            )  # fmt: skip
    return events
