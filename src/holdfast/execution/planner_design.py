"""The design of a campaign as its plan records it: strata, schedule of rounds, and what it should reach.

A design is plain JSON, so that a report read back from a store estimates exactly what the campaign did. Rounds end at
trial numbers that the design alone fixes; how a round is shared among the strata is read from its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from holdfast.execution.strata import Stratum
from holdfast.execution.strata_sequence import Layer
from holdfast.execution.trials import Row

_LONGEST = 50_000  # trials of a round, which are all in memory


@dataclass(frozen=True, slots=True)
class Part:
    """One stratum of a design.

    Attributes:
        label: its name.
        mass: its probability under the law.
        items: cases (bit and input) it holds, drawn without replacement; None where draws are independent.
        cells: (address of a site, bit positions, mass); empty for the one stratum that holds every fault.
    """

    label: str
    mass: float
    items: int | None
    cells: tuple[tuple[str, tuple[int, ...], float], ...] = ()


@dataclass(frozen=True)
class Design:
    """What determines the rounds of a campaign and the estimates from its rows.

    Attributes:
        parts: the strata.
        first: trials of the first round; ``growth``: share of the trials so far that each later round adds.
        budget: trials after which the campaign ends in any case.
        of: the outcome whose share is planned for.
        margin: half-width wanted, of the share or, if ``relative``, in units of the share; None spends the budget.
        relative: see ``margin``.
        confidence: of the interval that decides.
        exhaustive: every case once, no interval needed.
        ratios: by site, how much more likely the target law is than the sampling law; empty where they are one.
    """

    parts: tuple[Part, ...]
    first: int
    budget: int
    growth: float = 0.15
    of: str = "critical-or-due"
    margin: float | None = None
    relative: bool = False
    confidence: float = 0.95
    exhaustive: bool = False
    ratios: Mapping[str, float] = field(default_factory=dict)

    @property
    def simple(self) -> bool:
        """Whether the rows are one sample of a fixed size with equal weights."""
        return len(self.parts) == 1 and self.margin is None and not self.ratios and not self.exhaustive

    @cached_property
    def layers(self) -> list[Layer]:
        """The strata as the confidence sequence takes them."""
        most = max(self.ratios.values(), default=1.0)
        return [Layer(part.items, part.mass * most, part.label.rpartition(" / ")[2]) for part in self.parts]

    @property
    def cases(self) -> float:
        """Number of cases in all; infinite where some stratum is drawn from with replacement."""
        return sum(math.inf if part.items is None else part.items for part in self.parts)

    def ends(self) -> Iterator[int]:
        """Yield the trial numbers at which the rounds end."""
        end = 0
        total = int(min(self.budget, self.cases))
        least = max(2 * len(self.parts), 8)
        while end < total:
            step = self.first if not end else min(_LONGEST, max(least, math.ceil(self.growth * end)))
            end = total if end + step + least > total else end + step
            yield end

    def place(self, row: Row) -> int:
        """Return the number of the stratum that a row belongs to."""
        return self._where[row.site, row.bit] if self.parts[0].cells else 0

    @cached_property
    def _where(self) -> dict[tuple[str, int], int]:
        return {
            (address, bit): number
            for number, part in enumerate(self.parts)
            for address, positions, _ in part.cells
            for bit in positions
        }

    def weight(self, row: Row) -> float:
        """Return what a failure in this row counts: the mass of its stratum, times the ratio of the two laws."""
        return self.parts[self.place(row)].mass * self.ratios.get(row.site, 0.0 if self.ratios else 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return the design as a plan records it."""
        return asdict(self) | {"parts": [_part_json(part) for part in self.parts], "ratios": dict(self.ratios)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Design:
        """Read a design back."""
        parts = tuple(
            Part(item["label"], item["mass"], item["items"], tuple((a, tuple(b), m) for a, b, m in item["cells"]))
            for item in value["parts"]
        )
        return cls(**{**value, "parts": parts})


def _part_json(part: Part) -> dict[str, Any]:
    cells = [[address, list(positions), mass] for address, positions, mass in part.cells]
    return {"label": part.label, "mass": part.mass, "items": part.items, "cells": cells}


def parts_of(strata: Sequence[Stratum], inputs: int) -> tuple[Part, ...]:
    """Return the strata as a design records them; cases that are equally likely are drawn without replacement."""
    return tuple(
        Part(
            stratum.label,
            stratum.mass,
            stratum.bits * inputs if stratum.even else None,
            tuple((cell.site.address, cell.positions, cell.mass) for cell in stratum.cells),
        )
        for stratum in strata
    )


EVERYTHING = Part("all selected sites / the fault's own law", 1.0, None)
