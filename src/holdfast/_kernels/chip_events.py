"""The errors of a simulated chip, drawn on the device: a warp per block, a lane per counter of its stream.

The law, its constants and what a band and a block are is said in :mod:`holdfast.faults.chip`; whoever launches these
kernels passes them in, and the words drawn are the very ones that the reference draws. A warp draws 32 counters, eight
events each, as often as the count of its block asks for, and waits for no other warp.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.compiling import kernel
from holdfast._kernels.philox import philox

FIELDS = 9  # columns of the table of bands
ROWS = 128  # of that table, at most; bands are 57 at most: 21 up to t = 1, and one for each whole t up to -ln(2**-53)
_ROWS = tl.constexpr(ROWS)


@kernel()
def _unsigned(address: tl.tensor) -> tl.tensor:
    return tl.load(address).to(tl.uint64, bitcast=True)


@kernel()
def _owner(starts: tl.tensor, program: tl.tensor, bands: tl.tensor) -> tl.tensor:
    """Return the row of a program: how many of the ascending ``starts`` are not above it, less one."""
    lane = tl.arange(0, _ROWS)
    start = tl.load(starts + lane, mask=lane < bands, other=0)
    return tl.sum(((lane < bands) & (start <= program)).to(tl.int32), 0) - 1


@kernel()
def _count(poisson: tl.tensor, entries: tl.tensor, drawn: tl.tensor, LANES: tl.constexpr) -> tl.tensor:  # noqa: N803
    """Return how many of ``entries`` ascending bounds, at most LANES ** 2, are not above the word ``drawn``."""
    lane = tl.arange(0, LANES)
    last = (lane + 1) * LANES - 1  # of each row of the bounds
    row = tl.sum(((last < entries) & (_bound(poisson, last, entries) <= drawn)).to(tl.int32), 0)
    place = row * LANES + lane
    return row * LANES + tl.sum(((place < entries) & (_bound(poisson, place, entries) <= drawn)).to(tl.int32), 0)


@kernel()
def _bound(poisson: tl.tensor, place: tl.tensor, entries: tl.tensor) -> tl.tensor:
    return tl.load(poisson + place, mask=place < entries, other=0).to(tl.uint64, bitcast=True)


@kernel()
def _half(w: tl.tensor, number: tl.tensor) -> tl.tensor:
    """Return half ``number`` (0..7) of four uint64 words, low halves first, as uint32."""
    word = _word(w, number >> 1)
    return tl.where(number & 1 == 0, word & 0xFFFFFFFF, word >> 32).to(tl.uint32)


@kernel()
def _emit(
    out: tl.tensor, offset: tl.tensor, place: tl.tensor, real: tl.tensor, start: tl.tensor, block: tl.tensor,
    size: tl.tensor, stop: tl.tensor, MOST: tl.constexpr, LISTED: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Mark or list the events at ``offset`` (int32) in a block, those of them in memory from ``start`` to ``stop``."""
    begin = block * size.to(tl.int64) - start
    low, high = tl.maximum(-begin, 0), tl.minimum(stop - start - begin, size.to(tl.int64))
    real = real & (offset >= low.to(tl.int32)) & (offset < high.to(tl.int32))
    if LISTED:
        row = tl.program_id(0).to(tl.int64) * MOST
        tl.store(out + row + place, begin + start + offset, mask=real)
    else:  # the block's first word is found once, so that 32 bits suffice for each event
        bit = offset + (begin & 31).to(tl.int32)
        flag = tl.full(bit.shape, 1, tl.int32) << (bit & 31)
        tl.atomic_or(out + (begin >> 5) + (bit >> 5), flag, mask=real, sem="relaxed")  # read by later launches only


@kernel()
def _event(w: tl.tensor, number: tl.tensor, counter: tl.tensor, count: tl.tensor) -> tl.tensor:
    """Return half ``number`` of what each counter gave, its place among the events, and whether it is one of them."""
    place = 8 * counter + (number - 2)
    return _half(w, number), place, (place >= 0) & (place < count)


@kernel()
def _settle(
    w: tl.tensor, counter: tl.tensor, count: tl.tensor, band: tl.tensor, block: tl.tensor,
    width: tl.tensor, high: tl.tensor, out: tl.tensor, start: tl.tensor, stop: tl.tensor,
    TIES: tl.constexpr, MOST: tl.constexpr, LISTED: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Mark or list the events whose mark equals the bound's high part and whose word of the ties is below the rest."""
    low, k0, k1 = _unsigned(band + 6), _unsigned(band + 7), _unsigned(band + 8)
    size = tl.full([], 1, tl.int32) << width
    for number in range(8):
        half, place, real = _event(w, number, counter, count)
        rest = (block * (4 * TIES) + tl.maximum(place, 0)).to(tl.uint64)
        early = real & (half >> width.to(tl.uint32) == high) & (_word(philox((rest >> 2) + 1, k0, k1), rest & 3) < low)
        offset = (half & (size - 1).to(tl.uint32)).to(tl.int32)
        _emit(out, offset, place, early, start, block, size, stop, MOST, LISTED)


@kernel()
def _word(w: tl.tensor, place: tl.tensor) -> tl.tensor:
    return tl.where(place == 0, w[0], tl.where(place == 1, w[1], tl.where(place == 2, w[2], w[3])))


@kernel("bands", "entries", "start", "stop", "least")
def mark_events(
    starts: tl.tensor, table: tl.tensor, poisson: tl.tensor, out: tl.tensor,
    bands: tl.tensor, entries: tl.tensor, least: tl.tensor, start: tl.tensor, stop: tl.tensor,
    COUNTERS: tl.constexpr, TIES: tl.constexpr, MOST: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
    LISTED: tl.constexpr, FIELDS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Mark the errors of a chip in a map of its memory, or list them.

    Args:
        starts: first program of each row of the table; int64.
        table: int64 (bands, FIELDS), for each band, or each part of one: key (two words), first block, bits of an
            address, whether only a share of the band has passed, that share's bound (high part, then the 64 bits of the
            low part), key of the ties (two words).
        poisson: ascending uint64 bounds, as int64.
        out: the map, int32, a bit per address from ``start`` on; or the list, int64 (programs, MOST), -1 for none.
        bands: rows of the table, at most ``ROWS``.
        entries: of ``poisson``, at most LANES ** 2.
        least: count below the first bound.
        start: first address wanted.
        stop: the address after the last.
        COUNTERS: of a block's stream.
        TIES: counters of a block's stream of ties.
        MOST: events that a block has room for.
        LANES: counters drawn at once.
        LISTED: whether to list.
        FIELDS: columns of ``table``.
    """
    program = tl.program_id(0).to(tl.int64)
    owner = _owner(starts, program, bands)
    band = table + owner * FIELDS
    block = program - tl.load(starts + owner) + tl.load(band + 2)
    k0, k1 = _unsigned(band), _unsigned(band + 1)
    width = tl.load(band + 3).to(tl.int32)  # of an address; the bits of a half above it are the event's mark
    size = tl.full([], 1, tl.int32) << width
    high = tl.where(tl.load(band + 4) != 0, tl.load(band + 5), 0xFFFFFFFF).to(tl.uint32)  # above all marks: no ties
    lane, first = tl.arange(0, LANES), 0
    count = tl.full([], 1, tl.int32)
    while 8 * first - 2 < count:  # the first word, two places, is the count
        w = philox((block * COUNTERS + 1 + first + lane).to(tl.uint64), k0, k1)
        if first == 0:
            count = _count(poisson, entries, tl.max(tl.where(lane == 0, w[0], 0), 0), LANES) + least
        tied = tl.zeros([LANES], tl.int32)
        for number in tl.static_range(8):
            half, place, real = _event(w, number, first + lane, count)
            mark, offset = half >> width.to(tl.uint32), (half & (size - 1).to(tl.uint32)).to(tl.int32)
            tied = tied | (real & (mark == high)).to(tl.int32)
            _emit(out, offset, place, real & (mark < high), start, block, size, stop, MOST, LISTED)
        if tl.max(tied, 0) != 0:  # rare
            _settle(w, first + lane, count, band, block, width, high, out, start, stop, TIES, MOST, LISTED)
        first += LANES
