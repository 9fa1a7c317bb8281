"""Binary linear block codes: real syndrome decoding of error patterns, and what it leaves in expectation, exactly.

The syndrome of a received word is that of its error pattern, whatever the data, so decoding needs the errors alone. A
test decodes whole received words bit by bit in plain Python and finds the same.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from holdfast.faults.protection.layout import Layout
from holdfast.faults.protection.protocol import beyond
from holdfast.faults.protection.verdict import Errors, Placement, Verdict

_CLEAN, _UNKNOWN = -1, -2  # what a syndrome says that names no bit


@dataclass(frozen=True)
class LinearCode:
    """A systematic code: ``columns`` of the data bits, and ``check`` check bits behind them."""

    columns: tuple[int, ...]  # parity-check column of each data bit
    check: int
    corrects: bool = True  # flips the bit whose column the syndrome is
    detects: bool = True  # gives up a word whose syndrome is no column

    @property
    def data(self) -> int:
        """Number of data bits of a whole word."""
        return len(self.columns)

    @property
    def length(self) -> int:
        """Number of bits of a whole word."""
        return self.data + self.check

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """All columns, int64, shape (length,): data bits first."""
        return np.array([*self.columns, *(1 << bit for bit in range(self.check))], np.int64)

    @functools.cached_property
    def meaning(self) -> np.ndarray:
        """The position that each syndrome names, int64, shape (2**check,); negative where it names none."""
        table = np.full(1 << self.check, _UNKNOWN, np.int64)
        if self.corrects:
            table[self.matrix] = np.arange(self.length)
        table[0] = _CLEAN
        return table

    def encode(self, octets: np.ndarray) -> np.ndarray:
        """Return the check bits (int64, (n,)) of packed data words, uint8, shape (n, ceil(data / 8))."""
        check = np.zeros(len(octets), self._tables.dtype)
        for table, column in zip(self._tables, octets.T, strict=True):
            check ^= table[column]
        return check.astype(np.int64)

    @functools.cached_property
    def _tables(self) -> np.ndarray:
        """What each value of each data byte adds to the check bits: shape (bytes, 256)."""
        columns = np.zeros(-(-self.data // 8) * 8, np.uint16 if self.check <= 16 else np.int64)
        columns[: self.data] = self.columns
        values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(columns.dtype)
        return np.stack([np.bitwise_xor.reduce(values * part, axis=1) for part in columns.reshape(-1, 8)])

    def decode(self, errors: Errors, layout: Placement) -> Verdict:
        """Decode the words in which ``errors`` lie.

        A syndrome that names a data bit which a short word lacks is no single error: it is an unknown one.
        """
        if not len(errors.word):
            return Verdict.nothing()
        named = self.meaning[np.bitwise_xor.reduceat(self.matrix[errors.position], errors.firsts)]
        lacking = (named >= 0) & (named < self.data) & (layout.addresses(errors.words, named) < 0)
        named[lacking] = _UNKNOWN
        return Verdict(
            given_up=(named == _UNKNOWN) & self.detects,
            fixed_row=np.flatnonzero(named >= 0),
            fixed_position=named[named >= 0],
        )

    def shortened(self, data: int) -> LinearCode:
        """Return the code whose last data bits are always zero and not stored."""
        return LinearCode(self.columns[:data], self.check, self.corrects, self.detects)

    def failing(self, rate: float, check_rate: float) -> float:
        """Return the exact probability that independent errors are not all put right again."""
        return beyond([rate] * self.data + [check_rate] * self.check, 1 if self.corrects else 0)

    def detecting(self, rate: float, check_rate: float) -> float:
        """Return the exact probability that a word is given up."""
        return float(self._syndromes(rate, check_rate)[self._unknown].sum()) if self.detects else 0.0

    def leaving(self, rate: float, check_rate: float, *, erasing: bool, weights: Sequence[int] | None = None) -> float:
        """Return the exact mean number of data bits of a word that read flipped.

        Summed over the data bits: bit i reads flipped if it fails and the decoder does not name it, or it does not fail
        and the decoder names it.

        Args:
            rate: of the independent errors of data bits.
            check_rate: of those of check bits.
            erasing: words given up do not count.
            weights: how many bits of the model each data bit stands for; one, unless given.
        """
        return _leaving(self, rate, check_rate, erasing, tuple(weights or [1] * self.data))

    def flipped(self, place: int, rate: float, check_rate: float, erasing: bool) -> float:
        """Return the exact probability that the data bit at ``place`` reads flipped."""
        others = self._syndromes(rate, check_rate, without=place)
        own = int(self.matrix[place])
        wrongly = others[own] if self.corrects else 0.0
        syndrome = np.arange(len(others)) ^ own  # of the word, if the bit itself fails
        unnamed = self.meaning[syndrome] != place
        if erasing and self.detects:
            unnamed &= ~self._unknown[syndrome]
        return float(rate * others[unnamed].sum() + (1 - rate) * wrongly)

    @functools.cached_property
    def _unknown(self) -> np.ndarray:
        unknown: np.ndarray = self.meaning == _UNKNOWN
        return unknown

    def _syndromes(self, rate: float, check_rate: float, without: int = -1) -> np.ndarray:
        """Return the distribution of the syndrome over errors of all other bits; sums of positive terms only."""
        chance = np.zeros(1 << self.check)
        chance[0] = 1
        order = np.arange(1 << self.check)
        for place, column in enumerate(self.matrix.tolist()):
            if place != without:
                own = rate if place < self.data else check_rate
                chance = (1 - own) * chance + own * chance[order ^ column]
        return chance


def encoded(code: LinearCode, layout: Layout, codes: Tensor, word: np.ndarray) -> np.ndarray:
    """Return the check bits that guard ``word`` (int64, (n,)) of a site that stores ``codes``, int64, (n,)."""
    return code.encode(layout.octets(codes, word))


@functools.lru_cache(maxsize=1024)
def _leaving(code: LinearCode, rate: float, check_rate: float, erasing: bool, weights: tuple[int, ...]) -> float:
    shares: Counter[int] = Counter()  # bits of one column fare alike
    for column, weight in zip(code.columns, weights, strict=True):
        shares[column] += weight
    places = [(code.columns.index(column), share) for column, share in shares.items()]
    return sum(share * code.flipped(place, rate, check_rate, erasing) for place, share in places)
