"""The result of a campaign: its table, counts with intervals, and the comparison of two arms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_bytes
from holdfast.evidence.record import Measurement
from holdfast.execution.compare import Outcome
from holdfast.execution.row import Row
from holdfast.execution.statistics import Proportion, mcnemar
from holdfast.execution.store import read_campaign

FAILURES = (Outcome.CRITICAL.value, Outcome.DUE.value)


@dataclass(frozen=True)
class CampaignReport:
    """All trials of one campaign.

    Attributes:
        name: of the campaign in its store.
        plan: everything that determines the table.
        rows: one per trial, by trial number.
        confidence: of the intervals.
    """

    name: str
    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    confidence: float = 0.95

    @classmethod
    def of(cls, rows: Iterable[Row], *, name: str, plan: Mapping[str, Any], confidence: float = 0.95) -> CampaignReport:
        """Sort ``rows`` into a report."""
        return cls(name, plan, tuple(sorted(rows, key=lambda row: row.trial)), confidence)

    @classmethod
    def load(cls, store: Path | str, name: str = "baseline", *, confidence: float = 0.95) -> CampaignReport:
        """Read a campaign back from its store, finished or not."""
        plan, rows = read_campaign(store, name)
        return cls.of(rows, name=name, plan=plan, confidence=confidence)

    def __getitem__(self, outcome: str) -> Proportion:
        """Return the proportion of trials with ``outcome``, with Wilson's interval."""
        if outcome not in set(Outcome):
            raise unknown("outcome", outcome, [item.value for item in Outcome])
        return Proportion.wilson(self.counts[outcome], len(self.rows), self.confidence)

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.rows)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of trials of each outcome."""
        found = Counter(row.outcome for row in self.rows)
        return {outcome.value: found[outcome.value] for outcome in Outcome}

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) of the sorted rows; equal tables have equal digests."""
        return digest_bytes(json.dumps([astuple(row) for row in self.rows], separators=(",", ":")).encode())

    @property
    def guarded(self) -> int:
        """Number of trials in which a guard corrected something."""
        return sum(row.guard_events > 0 for row in self.rows)

    def by_site(self) -> dict[str, dict[str, int]]:
        """Return the number of trials of each outcome at each site (``kind:name``)."""
        table: dict[str, dict[str, int]] = {}
        for row in self.rows:
            counts = table.setdefault(row.site, {outcome.value: 0 for outcome in Outcome})
            counts[row.outcome] += 1
        return dict(sorted(table.items()))

    def by_bit(self) -> dict[int, tuple[int, int]]:
        """Return (critical or DUE, all) single-bit trials for each bit position, 0 the least significant."""
        total, failed = Counter[int](), Counter[int]()
        for row in (row for row in self.rows if row.bit >= 0):
            total[row.bit] += 1
            failed[row.bit] += row.outcome in FAILURES
        return {bit: (failed[bit], total[bit]) for bit in sorted(total)}

    def measured(self) -> dict[str, Measurement]:
        """Return the proportions of all outcomes as measurements of a record."""
        return {outcome.value: self[outcome].measurement() for outcome in Outcome}


@dataclass(frozen=True, slots=True)
class Paired:
    """Two arms that met the same faults on the same images; a failure is CRITICAL or DUE.

    Attributes:
        n: pairs of trials.
        only_first: pairs in which only the first arm failed; ``only_second`` the other way round.
        difference: failure rate of the second arm minus that of the first.
        p_value: exact two-sided McNemar test of "both fail equally often".
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    p_value: float


def paired(first: CampaignReport, second: CampaignReport) -> Paired:
    """Compare two campaigns trial by trial (McNemar 1947, exact).

    Raises:
        InvalidConfig: the campaigns are empty or did not run the same trials.
    """
    if not first.rows or [_identity(row) for row in first.rows] != [_identity(row) for row in second.rows]:
        raise InvalidConfig(
            f"{first.name!r} and {second.name!r} did not run the same trials",
            hint="use one seed, one fault, one dataset and the same sites for both",
        )
    pairs = [(a.outcome in FAILURES, b.outcome in FAILURES) for a, b in zip(first.rows, second.rows, strict=True)]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    difference = (only_second - only_first) / len(pairs)
    return Paired(len(pairs), only_first, only_second, difference, mcnemar(only_first, only_second))


def _identity(row: Row) -> tuple[int, str, int, int, int]:
    return row.trial, row.site, row.element, row.bit, row.input
