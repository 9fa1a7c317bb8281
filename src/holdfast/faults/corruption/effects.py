"""What becomes of the elements that an error strikes: bits that flip or stick, and whole values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.execution.condition import Flips, Rewrite
from holdfast.execution.rewrites import Becomes
from holdfast.faults.corruption.catalogue import Region, values
from holdfast.faults.marks import words
from holdfast.faults.rates import check_count, check_finite
from holdfast.models.site import Site
from holdfast.numerics.formats.floating_point import FloatingPoint
from holdfast.numerics.values import codes_of, number_kind
from holdfast.seeds import Seed, derive


def require_whole(region: Region, what: str) -> None:
    """Refuse a region of bits for what happens to whole elements.

    Raises:
        InvalidConfig: the region is one of bits.
    """
    if region.bits is not None:
        raise InvalidConfig(f"{what} strikes whole elements, not some of their bits", hint="what=bit-flip or stuck")


def all_bits(width: int) -> int:
    """Return the mask of all bits of an element as a signed 64-bit number."""
    return -1 if width == 64 else (1 << width) - 1


def rewriting(site: Site, region: Region, rule: Rewrite) -> Flips:
    """Return changes by a rule that has one row per element of the region."""
    index = torch.from_numpy(region.index)
    return Flips(site, index, torch.zeros_like(index), rewrite=rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChosenBits:
    """Which bits of an element are meant."""

    bit: int | None = None  # a fixed one, 0 the least significant; None: drawn
    bits: int = 1  # how many, where they are drawn
    adjacent: bool = False  # side by side
    same: bool = False  # the same ones in every element

    def __post_init__(self) -> None:
        check_count(self.bits, "the number of bits", most=64)
        if self.bit is not None:
            check_count(self.bit, "the number of a bit", least=0, most=63)
            if self.bits != 1:
                raise InvalidConfig("a fixed bit is one bit", hint="what=(flip-mask:mask=0x...) names several")

    def masks(self, site: Site, region: Region, seed: Seed) -> np.ndarray:
        """Return the bits of each element, int64, (n,).

        Raises:
            InvalidConfig: the elements are narrower.
        """
        if region.bits is not None:
            return region.bits
        if (self.bit or 0) >= site.bits or self.bits > site.bits:
            wanted = f"bit {self.bit}" if self.bit is not None else f"{self.bits} bits"
            raise InvalidConfig(f"{site.address} has elements of {site.bits} bits, so there is no {wanted}")
        if self.bit is not None:
            return np.full(len(region.index), np.int64(1) << np.int64(self.bit))
        return self._drawn(site.bits, region, seed)

    def _drawn(self, width: int, region: Region, seed: Seed) -> np.ndarray:
        index = np.zeros_like(region.index) if self.same else region.index
        if self.bits == 1 and (self.same or len(index) == 1):
            return np.full(len(index), np.int64(1) << np.int64(region.anchor))
        if self.bits == 1 or self.adjacent:
            places = np.uint64(width - self.bits + 1)
            first = (words(seed, index).view(np.uint64) % places).astype(np.int64)
            return np.int64(all_bits(self.bits)) << first
        ranks = words(seed, (index[:, None] * 64 + np.arange(width)).ravel()).view(np.uint64).reshape(-1, width)
        chosen = np.argpartition(ranks, self.bits - 1, axis=1)[:, : self.bits]
        masks: np.ndarray = np.bitwise_or.reduce(np.int64(1) << chosen, axis=1)
        return masks


@values.register("bit-flip")
@dataclass(frozen=True, slots=True, kw_only=True)
class FlippedBits(_ChosenBits):
    """Bits flip: one drawn bit of each element, a fixed ``bit``, or ``bits`` of them; of a region of bits, all."""

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the flips."""
        return Flips(site, torch.from_numpy(region.index), torch.from_numpy(self.masks(site, region, seed)))


@values.register("stuck")
@dataclass(frozen=True, slots=True, kw_only=True)
class StuckBits(_ChosenBits):
    """Bits, chosen as ``bit-flip`` chooses them, are stuck ``at`` 0, at 1, or each at one of them at random."""

    at: Literal["0", "1", "random"] = "1"

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the bits that become one, or zero, whatever is stored."""
        masks, index = self.masks(site, region, seed), torch.from_numpy(region.index)
        ones = {"0": np.zeros_like(masks), "1": masks}.get(str(self.at))
        if ones is None:
            ones = masks & words(derive(seed, "stuck"), region.index)
        rise, fall = torch.from_numpy(ones), torch.from_numpy(masks & ~ones)
        return Flips(site, index, torch.zeros_like(index), rise, fall)


@values.register("flip-mask")
@dataclass(frozen=True, slots=True, kw_only=True)
class FlipMask:
    """The bits of a ``mask`` flip, written 0x40000000, 0b1000 or 12."""

    mask: str

    def __post_init__(self) -> None:
        if not 0 < self.number < 2**64:
            raise InvalidConfig(
                f"a mask has one to 64 bits, {self.mask!r} does not", hint="for example mask=0x40000000"
            )

    @property
    def number(self) -> int:
        """The mask."""
        try:
            return int(str(self.mask), 0)
        except ValueError:
            raise InvalidConfig(f"cannot read the mask {self.mask!r}", hint="for example mask=0x40000000") from None

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the flips.

        Raises:
            InvalidConfig: the mask is wider than the elements.
        """
        require_whole(region, "a mask")
        if self.number >> site.bits:
            raise InvalidConfig(f"{self.mask} is wider than the {site.bits} bits of {site.address}")
        index = torch.from_numpy(region.index)
        return Flips(site, index, torch.full_like(index, self.number - (self.number >> 63 << 64)))


@values.register("random-bits")
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomBits:
    """Every bit flips with probability one half, and at least one of an element does: NVBitFI's random value."""

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the flips."""
        allowed = np.full_like(region.index, all_bits(site.bits)) if region.bits is None else region.bits
        masks = words(seed, region.index) & allowed
        masks = np.where(masks == 0, allowed & -allowed, masks)
        return Flips(site, torch.from_numpy(region.index), torch.from_numpy(masks))


@values.register("zero")
@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """All bits are cleared; that is the number zero in floats and signed integers."""

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the bits that become zero."""
        index = torch.from_numpy(region.index)
        fall = torch.full_like(index, all_bits(site.bits)) if region.bits is None else torch.from_numpy(region.bits)
        return Flips(site, index, torch.zeros_like(index), fall=fall)


def _becoming(site: Site, region: Region, what: str, numbers: torch.Tensor) -> Flips:
    require_whole(region, what)
    return rewriting(site, region, Becomes(codes_of(numbers, site.format, site.bits)))


@values.register("set")
@dataclass(frozen=True, slots=True, kw_only=True)
class SetTo:
    """Every element becomes ``value``, rounded to the site's format; an integer format keeps within its range."""

    value: float

    def __post_init__(self) -> None:
        check_finite(self.value, "the value to set")

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the rule that sets it."""
        number = torch.full((len(region.index),), float(self.value), dtype=torch.float64)
        return _becoming(site, region, "a value", number)


@values.register("uniform")
@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every element becomes a random number of [``low``, ``high``), as PyTorchFI's random values are by default."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_finite(self.low, "the lower end")
        check_finite(self.high, "the upper end")
        if not self.low < self.high:
            raise InvalidConfig(f"nothing lies between {self.low} and {self.high}")

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the rule that sets them."""
        uniform = torch.from_numpy((words(seed, region.index).view(np.uint64) >> np.uint64(11)) * 2.0**-53)
        return _becoming(site, region, "a value", self.low + (self.high - self.low) * uniform)


@values.register("nan")
@dataclass(frozen=True, slots=True, kw_only=True)
class NotANumber:
    """Every element becomes NaN, the quiet one of its format."""

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the rule that sets it.

        Raises:
            UnsupportedFormat: the format has no NaN.
        """
        _require_float(site, "NaN")
        return _becoming(site, region, "NaN", torch.full((len(region.index),), math.nan, dtype=torch.float64))


@values.register("inf")
@dataclass(frozen=True, slots=True, kw_only=True)
class Infinite:
    """Every element becomes infinite, of the given sign."""

    sign: Literal["+", "-", "random"] = "+"

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the rule that sets it.

        Raises:
            UnsupportedFormat: the format has no infinity.
        """
        if not _require_float(site, "infinity").infinities:
            raise UnsupportedFormat(f"{site.format} has no infinity", hint="what=nan")
        negative = (
            words(seed, region.index) < 0 if self.sign == "random" else np.full(len(region.index), self.sign == "-")
        )
        signed = torch.from_numpy(np.where(negative, -math.inf, math.inf))
        return _becoming(site, region, "infinity", signed)


def _require_float(site: Site, what: str) -> FloatingPoint:
    kind = number_kind(site.format)
    if not isinstance(kind, FloatingPoint):
        raise UnsupportedFormat(f"{site.address} holds {site.format}, which has no {what}", hint="select float sites")
    return kind
