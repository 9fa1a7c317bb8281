"""Binary codes over the words of a memory: SECDED, single-error-correcting on-die codes, and parity."""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.faults.protection.columns import extended_hamming, hamming, hsiao, parity
from holdfast.faults.protection.layout import Layout
from holdfast.faults.protection.linear import LinearCode, encoded
from holdfast.faults.protection.protocol import (
    Cost,
    Decoded,
    Expectation,
    Policy,
    Protection,
    Raw,
    check_memory,
    protections,
    require_policy,
)
from holdfast.faults.protection.verdict import Errors, settle
from holdfast.models.site import Site


class WordCode(Protection):
    """A linear code over words of neighbouring bits; the check bits of word w are element w of the check site."""

    __slots__ = ()
    ways: int
    on_detect: Policy

    @property
    @abstractmethod
    def code(self) -> LinearCode:
        """The code of a whole word."""

    def layout(self, site: Site) -> Layout:
        """Return the words of ``site``."""
        return Layout(site, self.code.data, self.ways)

    def check_site(self, site: Site) -> Site:
        """Return the check bits: one element per word."""
        return check_memory(site, self.layout(site).words, self.code.check)

    def check_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return the check bits of words ``index``."""
        return torch.from_numpy(encoded(self.code, self.layout(site), codes, index.numpy()))

    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Decode every word that holds an error."""
        layout = self.layout(site)
        errors = Errors.of(layout, raw, self.code.check)
        return settle(layout, errors, self.code.decode(errors, layout), self.on_detect)

    def cost(self, site: Site) -> Cost:
        """Return the check bits, those of a short last word included."""
        words = self.layout(site).words
        return Cost(words=words, check_bits=words * self.code.check)

    def expected(self, site: Site, rate: float, check_rate: float) -> Expectation:
        """Return failed and detected words and residual bits, all exact."""
        erasing = self.on_detect == "zero"
        parts = [(self.code.shortened(length), count) for length, count in self.layout(site).lengths().items()]
        return Expectation(
            failed=sum(count * code.failing(rate, check_rate) for code, count in parts),
            detected=sum(count * code.detecting(rate, check_rate) for code, count in parts),
            residual=sum(count * code.leaving(rate, check_rate, erasing=erasing) for code, count in parts),
        )


def _require_ways(ways: int) -> None:
    if ways < 1:
        raise InvalidConfig(f"bits cannot alternate over {ways} words", hint="ways=1 keeps neighbours together")


@protections.register("secded")
@dataclass(frozen=True, slots=True, kw_only=True)
class Secded(WordCode):
    """Single error correction, double error detection over 64 data and 8 check bits, the code of server memory.

    Three errors look like one and are miscorrected, unless their syndrome happens to be no column.
    """

    matrix: Literal["hsiao", "hamming"] = "hsiao"  # Hsiao's odd-weight columns, or the extended Hamming code
    ways: int = 1  # words whose bits alternate
    on_detect: Policy = "leave"

    def __post_init__(self) -> None:
        require_policy(self.on_detect)
        _require_ways(self.ways)

    @property
    def code(self) -> LinearCode:
        """The (72, 64) code."""
        return _SECDED[self.matrix]


@protections.register("on-die-sec")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnDieSec(WordCode):
    """Single error correction over 128 data and 8 check bits inside a DRAM die, which tells nobody.

    Two errors are left as they are, or a third, sound bit is flipped beside them; nothing is ever reported.
    """

    design: int = 0  # number of the parity-check matrix: real ones are secret, so any result should hold for several
    ways: int = 1  # words whose bits alternate
    on_detect: Policy = "leave"  # nothing is detected

    def __post_init__(self) -> None:
        _require_ways(self.ways)
        _ = self.code  # a design that is no seed is refused here
        if self.on_detect != "leave":
            raise InvalidConfig("an on-die code detects nothing that could be zeroed", hint="use secded or parity-zero")

    @property
    def code(self) -> LinearCode:
        """The (136, 128) code."""
        return _on_die(self.design)


@protections.register("parity-zero")
@dataclass(frozen=True, slots=True, kw_only=True)
class ParityZero(WordCode):
    """One parity bit per word; a word of odd parity reads as zero bits.

    An even number of errors passes unseen. Zero bits are the number zero in floating point and in symmetric signed
    fixed point; elsewhere they are whatever code 0 stands for.
    """

    word: int = 8  # data bits that share a parity bit
    ways: int = 1  # words whose bits alternate
    on_detect: Policy = "zero"

    def __post_init__(self) -> None:
        require_policy(self.on_detect)
        _require_ways(self.ways)
        if not 1 <= self.word <= 4096:
            raise InvalidConfig(f"a parity bit guards 1 to 4096 bits, not {self.word}")

    @property
    def code(self) -> LinearCode:
        """The (word + 1, word) parity code."""
        return _parity(self.word)


@functools.cache
def _on_die(design: int) -> LinearCode:
    return LinearCode(hamming(128, 8, design), 8, detects=False)


@functools.cache
def _parity(word: int) -> LinearCode:
    return LinearCode(parity(word), 1, corrects=False)


_SECDED = {"hsiao": LinearCode(hsiao(64, 8), 8), "hamming": LinearCode(extended_hamming(64, 8), 8)}
