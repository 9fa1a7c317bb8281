"""Errors of a read: gone at the next access, alone or on top of weak cells that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import changes_at
from holdfast.faults.bit_errors import BitErrors
from holdfast.faults.marks import below
from holdfast.faults.rates import check_rate, errors, per_site, union
from holdfast.seeds import Seed, derive


@faults.register("transient-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class TransientErrors:
    """In every read each bit flips with probability ``rate``, independent of all other bits and reads.

    What is stored stays right: the flips of one forward pass are gone in the next.
    """

    each_read: ClassVar[bool] = True
    rate: float  # per bit and read, 0..1

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of read ``seed``."""
        return BitErrors(rate=self.rate).flips(population, seed)


@faults.register("intermittent-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class IntermittentErrors:
    """Weak cells that err in some reads, and errors of a read that may hit any cell.

    A cell is weak with probability ``rate``, for life; in each read a weak cell errs with probability ``share``, and
    every cell, weak or not, with probability ``transient``. So a bit flips in a read with probability
    ``1 - (1 - rate * share) * (1 - transient)``. With ``share=1`` and ``transient=0`` this is ``bit-errors``, with
    ``rate=0`` it is ``transient-errors``. The profiled chips of Stutz et al. (MLSys 2021, appendix) are between: of
    chip 1's errors at 2.744 % less than half, 1.223 %, came back in every read.
    """

    each_read: ClassVar[bool] = True
    rate: float  # weak cells per bit, 0..1
    share: float = 0.5  # of the weak cells that err in one read, 0..1
    transient: float = 0.0  # per bit and read, 0..1

    def __post_init__(self) -> None:
        check_rate(self.rate, "rate of weak cells")
        check_rate(self.share, "share of weak cells")
        check_rate(self.transient)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the first read of chip ``seed``."""
        return self.on_chip(seed).flips(population, derive(seed, "read", 0))

    def on_chip(self, seed: Seed) -> _Reads:
        """Return the law of the reads of one chip, whose weak cells are those of ``seed``."""
        return _Reads(self, seed)


@dataclass(frozen=True, slots=True)
class _Reads:
    """The reads of one chip: every seed is another read."""

    each_read: ClassVar[bool] = True
    law: IntermittentErrors
    chip: Seed

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of read ``seed``."""
        found = []
        for site, start, own in per_site(population, seed):
            weak = errors(site.population, self.law.rate, derive(self.chip, site.address))
            found.append(start + weak[below(derive(own, "weak"), weak, self.law.share)])
            found.append(start + errors(site.population, self.law.transient, own))
        return changes_at(population, flip=union(found))
