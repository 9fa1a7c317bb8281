"""The law of a simulated chip: when does each bit of a memory fail as its voltage falls?

Every bit carries an independent Poisson process on an axis t; it is in error at rate p iff something happened on it up
to t = -ln(1 - p), which has probability exactly p. So the errors of a lower rate are a subset of those of a higher one
(Stutz et al., MLSys 2021, section 3), whatever the rates. The plane (bit address, t) is cut into bands of t and each
band into blocks of addresses such that every block expects ``_MEAN`` events. A block owns a fixed run of a keyed,
counter-based stream (Philox 4x64-10): one word says how many events it has, each half of the next ones where. Any part
of a memory of any size can therefore be drawn alone, in any order, on any device, in time proportional to its errors.

No floating-point arithmetic decides anything but the one threshold on t: counts come from an integer table of the
Poisson distribution, exact to 2**-64, and positions from the low bits of 32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed, derive

_MEAN_BITS = 10
_MEAN = 2**_MEAN_BITS  # events that a block expects
_SLOT = 672  # 64-bit words that a block owns: one for the count, the others for two positions each
_MOST = 2 * (_SLOT - 1)  # positions that a block has room for; a count beyond has probability below 2**-64
_FLOOR = 20  # t below 2**-_FLOOR is one band
_CHUNK = 64  # blocks drawn at once
_DENSE = 2.0**-9  # rate from which maps are faster than lists
_WINDOW_BITS = 23
_WINDOW = 2**_WINDOW_BITS  # bits of a map: it stays in the cache
_SPAN = 2**28  # bits of a list: bounds the memory that a draw takes

Words = np.ndarray  # uint64, or uint32 for positions


@dataclass(frozen=True, slots=True)
class _Band:
    """One interval [low, low + 2**-narrow) of t, and its blocks of 2**(narrow + 10) addresses."""

    low: float
    narrow: int
    number: int

    @property
    def width(self) -> float:
        return 2.0**-self.narrow

    @property
    def address_bits(self) -> int:
        return self.narrow + _MEAN_BITS


def _bands(t: float) -> Iterator[_Band]:
    """Yield the bands that begin below ``t``, lowest first."""
    yield _Band(0.0, _FLOOR, _FLOOR)
    for j in range(_FLOOR - 1, -1, -1):
        if 2.0 ** -(j + 1) < t:
            yield _Band(2.0 ** -(j + 1), j + 1, j)
    for n in range(1, math.ceil(t)):
        yield _Band(float(n), 0, -n)


@dataclass(frozen=True, slots=True)
class Chip:
    """The bits of one memory that are in error at ``rate``; ``seed`` is the chip.

    Raises:
        InvalidConfig: a rate outside 0 .. 1.
    """

    rate: float
    seed: Seed

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InvalidConfig(f"a bit error rate lies between 0 and 1, not {self.rate}", hint="0.01 is one percent")

    @property
    def dense(self) -> bool:
        """Whether a map of all bits is drawn faster than a list of those in error."""
        return self.rate >= _DENSE

    def lists(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (offset, addresses): the errors from ``start`` up to ``stop``, in order, window after window.

        Addresses are int64, relative to the offset, ascending and unique.
        """
        if self.dense:
            for offset, flags in self.maps(start, stop):
                yield offset, np.flatnonzero(flags)
            return
        for offset in range(start, stop, _SPAN):
            found = list(self._events(offset, min(stop, offset + _SPAN), self._bands()))
            yield offset, _unique(np.concatenate(found)) if found else np.empty(0, np.int64)

    def maps(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (offset, flags): one bool per bit from ``offset`` on, true where it is in error.

        The array is used again for the next window.
        """
        flags = np.empty(min(_WINDOW, stop - start), np.bool_)
        for span in range(start, stop, _SPAN):
            end = min(stop, span + _SPAN)
            wide = [band for band in self._bands() if band.address_bits > _WINDOW_BITS]
            rare = np.sort(np.concatenate([np.empty(0, np.int64), *self._events(span, end, wide)]))
            for offset in range(span, end, _WINDOW):
                window = flags[: min(_WINDOW, end - offset)]
                window.fill(self.rate == 1)
                low, high = np.searchsorted(rare, (offset - span, offset - span + len(window)))
                window[rare[low:high] - (offset - span)] = True
                narrow = [band for band in self._bands() if band.address_bits <= _WINDOW_BITS]
                for found in self._events(offset, offset + len(window), narrow):
                    window[found] = True
                yield offset, window

    def _bands(self) -> list[_Band]:
        return list(_bands(self._time)) if 0 < self.rate < 1 else []

    @property
    def _time(self) -> float:
        return -math.log1p(-self.rate)

    def _events(self, start: int, stop: int, bands: list[_Band]) -> Iterator[np.ndarray]:
        """Yield the events of ``bands`` up to now, relative to ``start``, in no order and with repetitions."""
        for band in bands:
            share = (self._time - band.low) / band.width
            yield from _in_band(band, self.seed, start, stop, share)


def _unique(found: np.ndarray) -> np.ndarray:
    ordered = np.sort(found.astype(np.uint32))  # a list spans less than 2**32 bits, and half the width sorts faster
    fresh = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh].astype(np.int64)


def _in_band(band: _Band, seed: Seed, start: int, stop: int, share: float) -> Iterator[np.ndarray]:
    """Yield the events of ``band`` whose mark, uniform in 0 .. 1, is below ``share``."""
    key, size = derive(seed, "band", band.number), 1 << band.address_bits
    first, last = start >> band.address_bits, -(-stop >> band.address_bits)
    for block in range(first, last, _CHUNK):
        blocks = min(_CHUNK, last - block)
        counts, halves = _drawn(key, block, blocks)
        # a block's own addresses, moved to where it lies and then to where the caller counts from
        places = (halves & np.uint32(size - 1)).astype(np.int64)
        places += ((np.arange(block, block + blocks) << band.address_bits) - start)[:, None]
        found = _first(places, counts)
        if share < 1:
            found = np.compress(_first(_marked(halves, band, derive(key, "ties"), block, share), counts), found)
        if block * size < start or (block + blocks) * size > stop:
            found = np.compress((found >= 0) & (found < stop - start), found)
        yield found


def _drawn(key: Seed, block: int, blocks: int) -> tuple[list[int], Words]:
    """Return how many events each of ``blocks`` blocks has, and halves of words, uint32, shape (blocks, _MOST)."""
    words = _words(key, block, blocks, _SLOT)
    least, table = _poisson()
    counts = np.searchsorted(table, words[:, 0], side="right") + least
    return counts.tolist(), words.astype("<u8", copy=False).view("<u4")[:, 2:]


def _first(table: np.ndarray, counts: list[int]) -> np.ndarray:
    """Return the first ``counts[i]`` entries of row i, one row after the other."""
    return np.concatenate([row[:count] for row, count in zip(table, counts, strict=True)])


def _marked(halves: Words, band: _Band, seed: Seed, block: int, share: float) -> np.ndarray:
    """Say which events have a mark below ``share``.

    The bits above an address are the mark's high bits. Only where they equal the bound's does the rest matter, 64 bits
    of another stream, and only then are they drawn.
    """
    high, low = divmod(int(share * 2 ** (96 - band.address_bits)), 2**64)
    marks = halves >> np.uint32(band.address_bits)
    early: np.ndarray = marks < np.uint32(high)
    tied = marks == np.uint32(high)
    for row in np.flatnonzero(tied.any(1)):
        rest = _words(seed, block + int(row), 1, _MOST)[0]
        early[row] |= tied[row] & (rest < np.uint64(low))
    return early


def _words(seed: Seed, block: int, blocks: int, each: int) -> Words:
    """Return the words that ``blocks`` consecutive blocks own, uint64, shape (blocks, each)."""
    counters = -(-each // 4)  # a count of the counter gives four words
    key = np.array(seed.words(), dtype=np.uint64)
    stream = np.random.Philox(key=key, counter=block * counters)
    return stream.random_raw(blocks * counters * 4).reshape(blocks, -1)[:, :each]


@functools.cache
def _poisson() -> tuple[int, Words]:
    """Return (k, table): a word below table[i] and not below table[i - 1] means a Poisson count of k + i."""
    spread, one = _MOST - _MEAN, 1 << 192
    up, down = [one], [one]
    for k in range(_MEAN, _MEAN + spread):
        up.append(up[-1] * _MEAN // (k + 1))
        down.append(down[-1] * (2 * _MEAN - k) // _MEAN)
    terms = [*reversed(down[1:]), *up]
    total, below, table = sum(terms), 0, []
    for term in terms[:-1]:
        below += term
        table.append(min((below << 64) // total, 2**64 - 1))
    return _MEAN - spread, np.array(table, dtype=np.uint64)
