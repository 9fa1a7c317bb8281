"""Where an error strikes: the shapes that single and multiple corruptions take in a tensor.

The shapes are those that Bolchini et al. (*CLASSES*, 2022) saw in the outputs of GPU operators under instruction-level
injection (same row, bullet wake, skip-x, block, channel, shattered channel), the tile of a matrix product, and two of
memories: neighbouring bits (MBU) and a word under one error-correcting code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.faults.corruption.catalogue import Region, patterns
from holdfast.faults.corruption.geometry import Geometry
from holdfast.faults.exact import distinct
from holdfast.faults.marks import below
from holdfast.faults.rates import check_count, check_rate
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive


def _thinned(index: np.ndarray, element: int, share: float, seed: Seed) -> np.ndarray:
    """Return each of ``index`` with probability ``share``, and ``element`` for certain."""
    if share >= 1:
        return index
    kept: np.ndarray = index[below(derive(seed, "share"), index, share) | (index == element)]
    return kept


@patterns.register("single")
@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """One element."""

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the element."""
        return Region(np.array([element]), anchor=bit)


@patterns.register("random")
@dataclass(frozen=True, slots=True, kw_only=True)
class Scattered:
    """So many different elements of one tensor, anywhere; all of them where there are fewer."""

    count: int = 16

    def __post_init__(self) -> None:
        check_count(self.count, "the number of elements", most=2**24)

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the element and others."""
        others = distinct(site.numel - 1, min(self.count, site.numel) - 1, seed)
        index = np.sort(np.append(others + (others >= element), element))
        return Region(index, anchor=bit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    share: float = 1.0  # of its elements that are hit, 0..1; the first one always is

    def __post_init__(self) -> None:
        check_rate(self.share, "share of a region")

    def _region(self, index: np.ndarray, element: int, bit: int, seed: Seed) -> Region:
        return Region(_thinned(index, element, self.share, seed), anchor=bit)


@patterns.register("row")
@dataclass(frozen=True, slots=True, kw_only=True)
class Row(_Line):
    """A row: along the last axis, so the width of a map, the features of a token, the inputs of one output."""

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the row of the element."""
        return self._region(Geometry.of(site).slab(element, column=None), element, bit, seed)


@patterns.register("column")
@dataclass(frozen=True, slots=True, kw_only=True)
class Column(_Line):
    """A column: along the last axis but one, so the height of a map, one feature of all tokens, one input."""

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the column of the element."""
        return self._region(Geometry.of(site).slab(element, row=None), element, bit, seed)


@patterns.register("bullet-wake")
@dataclass(frozen=True, slots=True, kw_only=True)
class BulletWake(_Line):
    """The same place in every channel, as a bullet leaves in a stack of sheets."""

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the place in all channels."""
        return self._region(Geometry.of(site).slab(element, channel=None), element, bit, seed)


@patterns.register("channel")
@dataclass(frozen=True, slots=True, kw_only=True)
class Channel(_Line):
    """A whole channel, or a ``share`` of it."""

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the channel of the element."""
        return self._region(Geometry.of(site).of_channel(element), element, bit, seed)


@patterns.register("shattered")
@dataclass(frozen=True, slots=True, kw_only=True)
class Shattered:
    """A bullet wake, and a ``share`` of the channel in which it struck."""

    share: float = 0.5

    def __post_init__(self) -> None:
        check_rate(self.share, "share of a channel")

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the place in all channels and part of one."""
        geometry = Geometry.of(site)
        channel = _thinned(geometry.of_channel(element), element, self.share, seed)
        return Region(np.union1d(channel, geometry.slab(element, channel=None)), anchor=bit)


@patterns.register("skip-x")
@dataclass(frozen=True, slots=True, kw_only=True)
class SkipX:
    """Elements at equal distances in linear memory, from the first one on to the end of the tensor."""

    stride: int = 32  # elements
    count: int = 16  # at most

    def __post_init__(self) -> None:
        check_count(self.stride, "the stride of skip-x")
        check_count(self.count, "the number of elements")

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the element and those that follow."""
        last = min(site.numel, element + self.stride * self.count)
        return Region(np.arange(element, last, self.stride, dtype=np.int64), anchor=bit)


@patterns.register("block")
@dataclass(frozen=True, slots=True, kw_only=True)
class Block(_Line):
    """A rectangle of neighbouring rows and columns in one channel that holds the element, and ends where the map does.

    Where the rectangle would lie is drawn among all that hold the element.
    """

    rows: int = 4
    columns: int = 4

    def __post_init__(self) -> None:
        check_rate(self.share, "share of a region")
        check_count(self.rows, "the rows of a block")
        check_count(self.columns, "the columns of a block")

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return a block around the element."""
        geometry, draw = Geometry.of(site), seed.numpy()
        spans = []
        for size, place, side in zip(
            (self.rows, self.columns), geometry.place(element)[-2:], geometry.shape[-2:], strict=True
        ):
            first = place - int(draw.integers(size))
            spans.append(range(max(first, 0), min(first + size, side)))
        return self._region(geometry.slab(element, row=spans[0], column=spans[1]), element, bit, seed)


@patterns.register("gemm-tile")
@dataclass(frozen=True, slots=True, kw_only=True)
class GemmTile(_Line):
    """The tile that one block of threads computes: aligned rows and columns of the matrix product behind the site.

    That product is (channels, height x width) for a map and (tokens, dim) or (out, in) for a matrix.
    """

    rows: int = 16
    columns: int = 16

    def __post_init__(self) -> None:
        check_rate(self.share, "share of a region")
        check_count(self.rows, "the rows of a tile")
        check_count(self.columns, "the columns of a tile")

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the tile of the element."""
        height, width = Geometry.of(site).matrix
        top, left = element // width // self.rows * self.rows, element % width // self.columns * self.columns
        rows = np.arange(top, min(top + self.rows, height), dtype=np.int64)
        columns = np.arange(left, min(left + self.columns, width), dtype=np.int64)
        return self._region((rows[:, None] * width + columns).ravel(), element, bit, seed)


@patterns.register("mbu")
@dataclass(frozen=True, slots=True, kw_only=True)
class Mbu:
    """A multi-bit upset: ``bits`` neighbouring bits of the linear memory, across elements, to the end of the site."""

    bits: int = 2

    def __post_init__(self) -> None:
        check_count(self.bits, "the bits of an upset", most=2**16)

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the bit and those above it."""
        first = element * site.bits + bit
        return _bits_region(site, np.arange(first, min(first + self.bits, site.population)), bit)


@patterns.register("ecc-word")
@dataclass(frozen=True, slots=True, kw_only=True)
class EccWord:
    """The aligned word of ``bits`` under one error-correcting code: what an uncorrectable error loses at once."""

    bits: int = 64

    def __post_init__(self) -> None:
        check_count(self.bits, "the bits of a word", most=2**16)

    def region(self, site: Site, element: int, bit: int, seed: Seed) -> Region:
        """Return the word of the bit."""
        first = (element * site.bits + bit) // self.bits * self.bits
        return _bits_region(site, np.arange(first, min(first + self.bits, site.population)), bit)


def _bits_region(site: Site, addresses: np.ndarray, bit: int) -> Region:
    element, place = np.divmod(addresses.astype(np.int64), site.bits)
    index, firsts = np.unique(element, return_index=True)
    masks = np.bitwise_or.reduceat(np.int64(1) << place, firsts)
    whole = -1 if site.bits == 64 else (1 << site.bits) - 1
    return Region(index, None if bool((masks == whole).all()) else masks, bit)
