"""What an attacker may spend: bits, DRAM rows, flips per weight; and where every stored bit lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.execution.injection import STORED
from holdfast.faults.adversarial.changes import bits_of, places_of
from holdfast.models import sites
from holdfast.models.site import Site
from holdfast.numerics import bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one attack.

    ``bits`` is the Hamming distance between the codes before and after. A row is ``row_bytes`` neighbouring bytes of
    the model's memory, the unit that hammering one DRAM row disturbs.
    """

    bits: int
    rows: int | None = None  # at most so many different rows are touched
    row_bytes: int = 8192
    one_per_weight: bool = True  # at most one flipped bit in each weight, as in Stutz et al.

    def __post_init__(self) -> None:
        for name, value in (("bits", self.bits), ("rows", self.rows), ("row_bytes", self.row_bytes)):
            if value is not None and value < 1:
                raise InvalidConfig(f"a budget has at least one of {name}, not {value}")

    def exceeded(self, memory: LinearMemory, flips: Sequence[Flips]) -> str:
        """Return which limit ``flips`` break, in words, or nothing."""
        if (spent := bits_of(flips)) > self.bits:
            return f"{spent} bits of {self.bits}"
        if self.rows is not None and (touched := len(memory.rows_of(flips))) > self.rows:
            return f"{touched} rows of {self.rows}"
        if self.one_per_weight and any(bool((bits.popcount(item.mask) > 1).any()) for item in flips):
            return "two bits of one weight"
        return ""


@dataclass(frozen=True)
class LinearMemory:
    """Bit addresses: stored sites in the order of :func:`holdfast.sites`, packed end to end from the start of a row.

    Codes of b bits take b bits, without padding. The bits of one element are neighbours, bit 0 first.

    Attributes:
        starts: first bit address of each site.
        row_bits: bits of one row.
    """

    starts: Mapping[Site, int]
    row_bits: int

    @classmethod
    def of(cls, places: Iterable[Site], row_bytes: int) -> LinearMemory:
        """Lay out ``places`` one after the other."""
        starts, end = {}, 0
        for site in places:
            starts[site] = end
            end += site.population
        return cls(starts, 8 * row_bytes)

    @classmethod
    def of_model(cls, model: nn.Module, row_bytes: int) -> LinearMemory:
        """Lay out everything that ``model`` stores, attacked or not."""
        return cls.of((site for site in sites(model) if site.kind in STORED), row_bytes)

    def row(self, site: Site, element: int, bit: int) -> int:
        """Return the row of one bit."""
        return (self.starts[site] + element * site.bits + bit) // self.row_bits

    def rows(self, site: Site, element: Tensor, bit: Tensor) -> Tensor:
        """Return the row of each bit, int64; ``element`` and ``bit`` are int64 and broadcast."""
        return (self.starts[site] + element * site.bits + bit) // self.row_bits

    def rows_of(self, flips: Sequence[Flips]) -> set[int]:
        """Return the rows that ``flips`` touch."""
        found: set[int] = set()
        for item in flips:
            found.update(self.rows(item.site, *places_of(item)).tolist())
        return found
