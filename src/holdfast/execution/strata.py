"""Strata of a population of faults: layer x class of bits, each with its mass under a sampling law.

A *cell* is one class of bits in one site. A *stratum* is one cell, or the cells of one class in neighbouring layers
where there are too many cells to draw from each. Every bit of the population lies in exactly one stratum.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, groupby

from holdfast._registry import unknown
from holdfast.errors import HoldfastError, InvalidConfig
from holdfast.models.site import Site
from holdfast.numerics.formats import formats

WAYS = ("none", "class", "bit", "layer", "layer-class", "layer-bit")


@lru_cache(maxsize=256)
def bit_classes(format_name: str, width: int) -> tuple[str, ...]:
    """Name the class of each bit of an element, least significant first.

    ``sign``; ``exponent-high``, the top exponent bit, whose flip moves a value out of every trained range or to zero;
    ``exponent-low``, the other exponent bits; ``mantissa-high`` and ``-low``, or ``magnitude-high`` and ``-low`` of an
    integer, its upper and lower half. A format that names no fields is all magnitude.
    """
    try:
        fields: tuple[str, ...] = formats.build(format_name).fields()
    except HoldfastError:
        fields = ()
    if len(fields) != width:
        fields = ("magnitude",) * width
    result = []
    for bit, field in enumerate(fields):
        own = [place for place, other in enumerate(fields) if other == field]
        low = len(own) - 1 if field == "exponent" else len(own) // 2
        result.append(field if field == "sign" else f"{field}-{'low' if own.index(bit) < low else 'high'}")
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Cell:
    """The bits at ``positions`` of every element of one site, with their probability under the law."""

    site: Site
    positions: tuple[int, ...]
    mass: float

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self.site.numel * len(self.positions)

    def locate(self, place: int) -> tuple[int, int]:
        """Return (element, bit) of one of the cell's bits, 0 .. bits-1."""
        element, position = divmod(place, len(self.positions))
        return element, self.positions[position]


@dataclass(frozen=True)
class Stratum:
    """Cells that one share of the trials is drawn from."""

    layers: str  # the site's address, or the first and the last of several
    bits_of: str  # the class, ``bit 30``, or ``all bits``
    cells: tuple[Cell, ...]

    @cached_property
    def mass(self) -> float:
        """Probability under the law."""
        return math.fsum(cell.mass for cell in self.cells)

    @property
    def bits(self) -> int:
        """Number of bits."""
        return sum(cell.bits for cell in self.cells)

    @property
    def label(self) -> str:
        """Name of the stratum in tables."""
        return f"{self.layers} / {self.bits_of}"

    @property
    def even(self) -> bool:
        """Whether all its bits are equally likely, so that they can be drawn without replacement."""
        density = [cell.mass / cell.bits for cell in self.cells]
        return max(density) <= min(density) * (1 + 1e-9)

    def cell_of(self, place: int) -> tuple[Cell, int]:
        """Return the cell that holds bit ``place`` of the stratum, and the place within it."""
        found = bisect_right(self._ends, place)
        return self.cells[found], place - (self._ends[found] - self.cells[found].bits)

    def cell_at(self, share: float) -> Cell:
        """Return the cell in which a share of the stratum's mass, 0 .. 1, ends."""
        ends = list(accumulate(cell.mass for cell in self.cells))
        return self.cells[min(bisect_right(ends, share * ends[-1]), len(self.cells) - 1)]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(cell.bits for cell in self.cells))


def cells_of(
    sites: Sequence[Site], masses: Sequence[float], *, by: str, bits: Sequence[int] | str | None = None
) -> list[Cell]:
    """Cut every site into cells by class of bits, by exact bit, or not at all; sites without mass are left out.

    Args:
        sites: the population.
        masses: probability of each site.
        by: ``class``, ``bit`` or ``all``.
        bits: restricts the population to these positions, or to one class (``sign``, ``exponent-high``, ...).

    Raises:
        InvalidConfig: nothing is left.
    """
    result = []
    for site, mass in zip(sites, masses, strict=True):
        classes = bit_classes(site.format, site.bits)
        kept = [bit for bit in range(site.bits) if _kept(bit, classes[bit], bits)]
        names: list[str] = [{"class": classes[bit], "bit": f"bit {bit}", "all": "all bits"}[by] for bit in kept]
        for name in dict.fromkeys(names):
            own = tuple(bit for bit, other in zip(kept, names, strict=True) if other == name)
            if mass and site.numel:
                result.append(Cell(site, own, mass * len(own) / site.bits))
    total = math.fsum(cell.mass for cell in result)
    if not total:
        named = bits if isinstance(bits, str) or bits is None else ", ".join(map(str, bits))
        hint = "positions count from 0, the least significant; classes are sign, exponent-high, mantissa, ..."
        raise InvalidConfig(f"no selected site has a bit {named}", hint=hint)
    return [Cell(cell.site, cell.positions, cell.mass / total) for cell in result]


def _kept(bit: int, name: str, bits: Sequence[int] | str | None) -> bool:
    if bits is None:
        return True
    return name == bits or name.partition("-")[0] == bits if isinstance(bits, str) else bit in bits


def stratify(
    sites: Sequence[Site],
    masses: Sequence[float],
    way: str,
    *,
    most: int = 64,
    bits: Sequence[int] | str | None = None,
) -> list[Stratum]:
    """Return the strata of a population, at most about ``most``.

    Args:
        sites: the population.
        masses: probability of each site under the sampling law.
        way: ``none``, ``class``, ``bit``, ``layer``, ``layer-class`` or ``layer-bit``.
        most: neighbouring layers share strata when there would be more.
        bits: see :func:`cells_of`.

    Raises:
        UnknownName: another way; InvalidConfig: nothing to draw from.
    """
    if way not in WAYS:
        raise unknown("stratification", way, WAYS)
    by = {"none": "all", "layer": "all"}.get(way, way.rpartition("-")[2])
    cells = cells_of(sites, masses, by=by, bits=bits)
    names = list(dict.fromkeys(_bits_of(cell, by) for cell in cells))
    bands = max(1, most // len(names)) if way.startswith("layer") else 1
    result = []
    for _, band in groupby(_banded(cells, bands), key=lambda item: item[0]):
        inside = [cell for _, cell in band]
        for name in names:
            if own := tuple(cell for cell in inside if _bits_of(cell, by) == name):
                result.append(Stratum(_layers(own), name, own))
    return result


def _bits_of(cell: Cell, by: str) -> str:
    if by == "all":
        return "all bits"
    if by == "bit":
        return f"bit {cell.positions[0]}"
    return bit_classes(cell.site.format, cell.site.bits)[cell.positions[0]]


def _banded(cells: Sequence[Cell], bands: int) -> list[tuple[int, Cell]]:
    """Number the band of each cell: one per site while that fits, else runs of sites of about equal mass."""
    sites = list(dict.fromkeys(cell.site for cell in cells))
    if len(sites) <= bands:
        return [(sites.index(cell.site), cell) for cell in cells]
    weight = {site: math.fsum(cell.mass for cell in cells if cell.site == site) for site in sites}
    middles = [end - weight[site] / 2 for site, end in zip(sites, accumulate(weight[s] for s in sites), strict=True)]
    number = {site: min(bands - 1, int(middle * bands)) for site, middle in zip(sites, middles, strict=True)}
    return [(number[cell.site], cell) for cell in cells]


def _layers(cells: Sequence[Cell]) -> str:
    first, last = cells[0].site.address, cells[-1].site.address
    return first if first == last else f"{first} .. {last}"
