"""Random words that belong to a place: a keyed function of an index, the same in any order, company or process.

Philox 4x32 with ten rounds (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011), over arrays of
counters. It gives a cell a property for life, such as the value it is stuck at, without drawing it for other cells.
"""

from __future__ import annotations

import numpy as np

from holdfast.seeds import Seed

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_CHUNK = 2**14  # places at once: what the rounds touch stays in the cache


def words(seed: Seed, index: np.ndarray) -> np.ndarray:
    """Return one uniform 64-bit word per ``index`` (non-negative int64, shape (n,)) as int64, shape (n,)."""
    high, low = seed.words()
    # 64 bits of the seed key the cipher, the other 64 fill the half of the counter that the index leaves free
    rest = np.array([high], np.uint64)
    drawn = np.empty(len(index), np.uint64)
    for start in range(0, len(index), _CHUNK):
        place = index[start : start + _CHUNK].astype(np.uint64)
        first, second, _, _ = philox((place & _LOW, place >> _HALF, rest & _LOW, rest >> _HALF), low)
        drawn[start : start + _CHUNK] = first | second << _HALF
    return drawn.view(np.int64)


def coins(seed: Seed, index: np.ndarray) -> np.ndarray:
    """Return one fair bool per ``index``, shape (n,)."""
    tossed: np.ndarray = words(seed, index) < 0
    return tossed


def below(seed: Seed, index: np.ndarray, share: float) -> np.ndarray:
    """Choose each ``index`` with probability ``share`` (0..1, exact to 2**-64); a smaller share is a subset."""
    if share >= 1:
        return np.ones(len(index), np.bool_)
    chosen: np.ndarray = words(seed, index).view(np.uint64) < np.uint64(int(share * 2**64))
    return chosen


Counter = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def philox(counter: Counter, key: int) -> Counter:
    """Return the four 32-bit words of Philox 4x32-10 per counter, each as uint64, shape (n,); ``key`` is 64 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        one, other = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (other >> _HALF) ^ c1 ^ np.uint64(k0),
            other & _LOW,
            (one >> _HALF) ^ c3 ^ np.uint64(k1),
            one & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3
