"""Chipkill: a Reed-Solomon code whose symbols lie in different chips, so that a whole chip may die."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.faults.protection import galois
from holdfast.faults.protection.layout import Layout
from holdfast.faults.protection.protocol import (
    Cost,
    Decoded,
    Expectation,
    Policy,
    Protection,
    Raw,
    beyond,
    check_memory,
    protections,
    require_policy,
)
from holdfast.faults.protection.verdict import Errors, Verdict, settle
from holdfast.models.site import Site


@dataclass(frozen=True)
class ReedSolomon:
    """A code over GF(2^8) with syndromes S_j = sum of e_i x**(i j), j = 0 .. check-1; symbol i is at exponent i.

    Any ``check`` columns are independent, so the distance is check + 1: with three check symbols one wrong symbol is
    corrected and two are detected. Decoding is bounded to one symbol, and more check symbols only detect more.
    """

    data: int  # symbols
    check: int  # symbols

    @property
    def length(self) -> int:
        """Symbols of a word: data first, then check symbols."""
        return self.data + self.check

    @functools.cached_property
    def _encoder(self) -> np.ndarray:
        """What one unit of each data symbol adds to each check symbol, shape (check, data)."""
        rows, symbols = np.arange(self.check)[:, None], np.arange(self.length)[None, :]
        matrix = galois.powers()[rows * symbols % galois.ORDER]
        return galois.solve(matrix[:, self.data :], matrix[:, : self.data])

    def encode(self, octets: np.ndarray) -> np.ndarray:
        """Return the check symbols, uint8, shape (n, check), of data symbols, uint8, shape (n, data)."""
        every = np.arange(256)
        check = np.zeros((len(octets), self.check), np.uint8)
        for row, factors in enumerate(self._encoder):
            for column, factor in zip(octets.T, factors, strict=True):
                check[:, row] ^= galois.times(every, np.full(256, factor)).astype(np.uint8)[column]
        return check

    def locate(self, word: np.ndarray, symbol: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the one symbol (int64, one per word) that the syndromes name, and what to add to it.

        The symbol is -1 where all syndromes vanish, and -2 where they fit no single symbol.

        Args:
            word: of each wrong symbol, ascending, int64, shape (n,).
            symbol: its number.
            value: its error, 1 .. 255.
        """
        firsts = np.flatnonzero(np.diff(word, prepend=-1))
        log = galois.logarithms()[value]
        terms = [galois.powers()[(log + j * symbol) % galois.ORDER] for j in range(self.check)]
        syndromes = np.stack([np.bitwise_xor.reduceat(term, firsts) for term in terms])
        logs = galois.logarithms()[syndromes]
        steps = np.diff(logs, axis=0) % galois.ORDER
        single = (syndromes != 0).all(0) & (steps == steps[0]).all(0) & (steps[0] < self.length)
        return np.where(single, steps[0], np.where((syndromes == 0).all(0), -1, -2)), syndromes[0]


@protections.register("chipkill")
@dataclass(frozen=True, slots=True, kw_only=True)
class Chipkill(Protection):
    """Byte c of every word, and each of its check bytes, lies in a chip of its own; any one chip may fail entirely.

    With the default, words of 16 data bytes and three check bytes, two wrong bytes are always detected; three or more
    are miscorrected now and then. The check bytes of word w are element w of the check site, lowest byte first.
    """

    data: int = 16  # bytes of a word
    check: int = 3  # check bytes of a word, 3 to 8
    on_detect: Policy = "leave"

    def __post_init__(self) -> None:
        if not 3 <= self.check <= 8:
            raise InvalidConfig(f"correcting one symbol and detecting two takes 3 to 8 check bytes, not {self.check}")
        if self.data < 1 or self.data + self.check > galois.ORDER:
            raise InvalidConfig(f"a word over GF(2^8) has at most {galois.ORDER} bytes")
        require_policy(self.on_detect)

    @property
    def code(self) -> ReedSolomon:
        """The code of a whole word."""
        return _reed_solomon(self.data, self.check)

    def _layout(self, site: Site) -> Layout:
        return Layout(site, 8 * self.data)

    def check_site(self, site: Site) -> Site:
        """Return the check bytes: one element per word."""
        return check_memory(site, self._layout(site).words, 8 * self.check)

    def check_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return the check bytes of words ``index``."""
        symbols = self.code.encode(self._layout(site).octets(codes, index.numpy())).astype(np.int64)
        return torch.from_numpy((symbols << (8 * np.arange(self.check))).sum(1))

    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Decode every word that holds an error."""
        layout = self._layout(site)
        errors = Errors.of(layout, raw, 8 * self.check)
        return settle(layout, errors, self._verdict(errors, layout), self.on_detect)

    def _verdict(self, errors: Errors, layout: Layout) -> Verdict:
        if not len(errors.word):
            return Verdict.nothing()
        symbols = errors.keys // 8  # of the whole memory
        firsts = np.flatnonzero(np.diff(symbols, prepend=-1))
        value = np.bitwise_or.reduceat(1 << errors.position % 8, firsts)
        named, added = self.code.locate(errors.word[firsts], errors.position[firsts] // 8, value)
        named = np.where(self._lacks(layout, errors.words, named, added), -2, named)
        row, bit = np.nonzero((added[:, None] >> np.arange(8)) & (named >= 0)[:, None])
        return Verdict(given_up=named == -2, fixed_row=row, fixed_position=8 * named[row] + bit)

    def _lacks(self, layout: Layout, word: np.ndarray, named: np.ndarray, added: np.ndarray) -> np.ndarray:
        """Say where a correction would change a bit that a short word does not have."""
        position = 8 * named[:, None] + np.arange(8)
        absent = (position < layout.word) & (layout.addresses(word[:, None], position) < 0)
        lacks: np.ndarray = ((named >= 0)[:, None] & absent & (((added[:, None] >> np.arange(8)) & 1) == 1)).any(1)
        return lacks

    def cost(self, site: Site) -> Cost:
        """Return the check bytes, those of a short last word included."""
        words = self._layout(site).words
        return Cost(words=words, check_bits=words * 8 * self.check)

    def expected(self, site: Site, rate: float, check_rate: float) -> Expectation:
        """Return the failed words: those of two wrong symbols or more."""
        lengths = self._layout(site).lengths().items()
        return Expectation(failed=sum(count * self._failing(length, rate, check_rate) for length, count in lengths))

    def _failing(self, bits: int, rate: float, check_rate: float) -> float:
        full, rest = divmod(bits, 8)
        symbols = (
            [beyond([rate] * 8, 0)] * full + [beyond([rate] * rest, 0)] + [beyond([check_rate] * 8, 0)] * self.check
        )
        return beyond(symbols, 1)


@functools.cache
def _reed_solomon(data: int, check: int) -> ReedSolomon:
    return ReedSolomon(data, check)
