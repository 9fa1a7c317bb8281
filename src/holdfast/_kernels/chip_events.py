"""The errors of a simulated chip, drawn on the device: a program per block, a lane per counter of its stream.

The law, its constants and what a band and a block are is said in :mod:`holdfast.faults.chip`; whoever launches these
kernels passes them in, and the words drawn are the very ones that the reference draws.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.blake3_tree import sole_owner
from holdfast._kernels.compiling import kernel
from holdfast._kernels.philox import philox

FIELDS = 9  # columns of the table of bands


@kernel()
def _tied(rest: tl.tensor, k0: tl.tensor, k1: tl.tensor, low: tl.tensor) -> tl.tensor:
    """Say whether word ``rest`` of the ties' stream is below ``low``."""
    w0, w1, w2, w3 = philox((rest >> 2) + 1, k0, k1)
    place = rest & 3
    return tl.where(place == 0, w0, tl.where(place == 1, w1, tl.where(place == 2, w2, w3))) < low


@kernel()
def _take(
    half: tl.tensor, place: tl.tensor, count: tl.tensor, band: tl.tensor, block: tl.tensor, out: tl.tensor,
    start: tl.tensor, stop: tl.tensor, MOST: tl.constexpr, TIES: tl.constexpr, LISTED: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Mark or list those of the events number ``place`` that happened by now, in memory from ``start`` to ``stop``."""
    width = tl.load(band + 3)
    address = (block << width) + (half & ((tl.full([1], 1, tl.int64) << width) - 1))
    real = (place >= 0) & (place < count) & (address >= start) & (address < stop)
    if tl.load(band + 4) != 0:  # only a share of the band has passed
        mark, high = half >> width, tl.load(band + 5)
        early, tied = mark < high, real & (mark == high)
        if tl.max(tied.to(tl.int32), 0) != 0:
            low, k0, k1 = _unsigned(band + 6), _unsigned(band + 7), _unsigned(band + 8)
            rest = (block * (4 * TIES) + tl.maximum(place, 0)).to(tl.uint64)
            early = early | (tied & _tied(rest, k0, k1, low))
        real = real & early
    local = address - start
    if LISTED:
        row = tl.program_id(0).to(tl.int64) * MOST
        tl.store(out + row + place, tl.where(real, address, -1), mask=(place >= 0) & (place < MOST))
    else:
        tl.atomic_or(out + (local >> 5), tl.full(local.shape, 1, tl.int32) << (local & 31).to(tl.int32), mask=real)


@kernel()
def _unsigned(address: tl.tensor) -> tl.tensor:
    return tl.load(address).to(tl.uint64, bitcast=True)


@kernel("bands", "steps", "entries", "start", "stop", "least")
def mark_events(
    starts: tl.tensor, table: tl.tensor, poisson: tl.tensor, out: tl.tensor,
    bands: tl.tensor, steps: tl.tensor, entries: tl.tensor, least: tl.tensor, start: tl.tensor, stop: tl.tensor,
    COUNTERS: tl.constexpr, TIES: tl.constexpr, MOST: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
    LISTED: tl.constexpr, FIELDS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Mark the errors of a chip in a map of its memory, or list them.

    Args:
        starts: first program of each band; int64.
        table: int64 (bands, FIELDS): key (two words), first block, bits of an address, whether only a share of the band
            has passed, that share's bound (high part, then the 64 bits of the low part), key of the ties (two words).
        poisson: ascending uint64 bounds, as int64.
        out: the map, int32, a bit per address from ``start`` on; or the list, int64 (programs, MOST), -1 for none.
        bands: how many there are.
        steps: bits of ``bands``.
        entries: of ``poisson``.
        least: count below the first bound.
        start: first address wanted.
        stop: the address after the last.
        COUNTERS: of a block's stream.
        TIES: counters of a block's stream of ties.
        MOST: events that a block has room for.
        LANES: a power of two, at least ``COUNTERS``.
        LISTED: whether to list.
        FIELDS: columns of ``table``.
    """
    program = tl.program_id(0).to(tl.int64)
    owner = sole_owner(starts, program, bands, steps)
    band = table + owner * FIELDS
    block = program - tl.load(starts + owner) + tl.load(band + 2)
    lane = tl.arange(0, LANES)
    w0, w1, w2, w3 = philox((block * COUNTERS + 1 + lane).to(tl.uint64), _unsigned(band), _unsigned(band + 1))
    drawn = tl.max(tl.where(lane == 0, w0, 0), 0)
    low, high = tl.zeros([1], tl.int32), tl.zeros([1], tl.int32) + entries
    while tl.max(high - low, 0) > 0:  # how many bounds are not above the word drawn
        middle = (low + high) // 2
        below = _unsigned(poisson + middle) <= drawn
        low, high = tl.where(below, middle + 1, low), tl.where(below, high, middle)
    count = tl.max(low, 0) + least
    inside = lane < COUNTERS
    for quarter in tl.static_range(4):
        word = w0 if quarter == 0 else (w1 if quarter == 1 else (w2 if quarter == 2 else w3))
        place = tl.where(inside, 8 * lane + (2 * quarter - 2), -1)
        _take((word & 0xFFFFFFFF).to(tl.int64), place, count, band, block, out, start, stop, MOST, TIES, LISTED)
        place = tl.where(inside, 8 * lane + (2 * quarter - 1), -1)
        _take((word >> 32).to(tl.int64), place, count, band, block, out, start, stop, MOST, TIES, LISTED)
