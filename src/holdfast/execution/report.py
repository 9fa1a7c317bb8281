"""The result of a campaign: its table, and what it says about the population, with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast._registry import unknown
from holdfast.evidence.digest import digest_bytes
from holdfast.evidence.record import Measurement
from holdfast.execution.compare import Outcome
from holdfast.execution.planner import MEASURES, rounds
from holdfast.execution.planner_design import Design
from holdfast.execution.report_estimates import Estimates, design_of
from holdfast.execution.report_weights import reweighted
from holdfast.execution.report_words import plan_in_words
from holdfast.execution.row import Row
from holdfast.execution.statistics import Proportion
from holdfast.execution.store import read_campaign

FAILURES = MEASURES["critical-or-due"]
_ALWAYS = ("masked", "sdc", "critical", "due", "critical-or-due")  # said even where there are none


@dataclass(frozen=True, repr=False)
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
    def load(cls, store: Path | str, name: str | None = "baseline", *, confidence: float = 0.95) -> CampaignReport:
        """Read a campaign back from its store, finished or not; with None for a name the first one of the file."""
        found, plan, rows = read_campaign(store, name)
        return cls.of(rows, name=found, plan=plan, confidence=confidence)

    def __repr__(self) -> str:
        """Say in one line how many trials ended how; the rows, thousands of them, are in ``rows``."""
        met = ", ".join(f"{outcome} {count}" for outcome, count in self.counts.items() if count)
        return f"<{type(self).__name__} {self.name!r}: {self.trials} trials: {met or 'none yet'}>"

    def __str__(self) -> str:
        """Return the plan in sentences and one line for each share, as the command line prints them."""
        shares = {outcome: self[outcome] for outcome in MEASURES}
        lines = [_line(outcome, share) for outcome, share in shares.items() if share.successes or outcome in _ALWAYS]
        return "\n".join([self.words, *lines])

    def __getitem__(self, outcome: str) -> Proportion:
        """Return the share of faults with ``outcome`` (or ``critical-or-due``) under the campaign's law.

        One simple sample has Wilson's interval, that of the hypergeometric law where it is drawn without replacement.
        Trials from strata, or drawn until a margin was reached, are weighted,
        and their interval is a confidence sequence; then ``successes`` of ``n`` are the trials seen, not the share.
        An exhaustive campaign has the exact share.
        """
        return self._estimates.share(_known(outcome))

    @cached_property
    def design(self) -> Design:
        """Strata, rounds and goal, as the plan records them."""
        return design_of(self.plan, len(self.rows))

    @cached_property
    def _estimates(self) -> Estimates:
        return Estimates(self.design, self.rows, self.confidence)

    @property
    def rounds(self) -> list[list[Row]]:
        """The complete rounds; rows of one that was interrupted are in no estimate."""
        return [list(self.rows)] if self.design.simple else rounds(self.design, self.rows)

    @property
    def words(self) -> str:
        """The plan in sentences: population, law, strata, stop, interval."""
        return plan_in_words(self.plan, self.design)

    @property
    def stopped(self) -> str:
        """``margin reached``, ``every case tried`` or ``trials spent``; empty while the campaign is not over."""
        return self._estimates.stopped

    @property
    def ess(self) -> float:
        """Kish's effective sample size of the weights: the number of trials where all weigh the same."""
        return self._estimates.effective

    @cached_property
    def _drawn(self) -> Counter[int]:
        return Counter(map(self.design.place, self.rows))

    def weight(self, row: Row) -> float:
        """Return what a trial counts under the campaign's law, one over its chance up to a factor.

        Trials go where failures are, so those of a campaign with a margin or strata must be weighted wherever they are
        counted together: ``vulnerability(report.rows, weight=report.weight)``, and ``reliability`` alike.
        """
        if self.design.simple:
            return 1.0
        credit = self._estimates.credits.get(row.trial)  # none in a round that was interrupted
        return self.design.weight(row) * (1 / self._drawn[self.design.place(row)] if credit is None else credit)

    def worth(self, outcome: str = "critical-or-due") -> float:
        """Return how many simple random trials would know the share of ``outcome`` as well."""
        return self._estimates.worth(_known(outcome))

    def under(self, law: str) -> CampaignReport:
        """Return the same trials weighted to another sampling law.

        Raises:
            UnknownName: no such law.
            InvalidConfig: the trials do not come from one simple sample of the whole population, the law counts sites
                that they left out, or ``mac-weighted`` for a campaign that counted no multiply-accumulates.
        """
        return CampaignReport(self.name, reweighted(self.plan, self.design, law), self.rows, self.confidence)

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
        """Return (critical or DUE, all) single-bit trials for each bit position, 0 the least significant.

        These are the trials as they were allocated; what they say about the population is in :meth:`bit_shares`.
        """
        total, failed = Counter[int](), Counter[int]()
        for row in (row for row in self.rows if row.bit >= 0):
            total[row.bit] += 1
            failed[row.bit] += row.outcome in FAILURES
        return {bit: (failed[bit], total[bit]) for bit in sorted(total)}

    def site_shares(self, outcome: str = "critical-or-due") -> dict[str, Proportion]:
        """Return the share of ``outcome`` among the faults of each site that was tried, weighted, with intervals."""
        return self._estimates.by_site(_known(outcome))

    def share_among(self, sites: Callable[[str], bool], outcome: str = "critical-or-due") -> Proportion:
        """Return the share of ``outcome`` among the faults of all sites (``kind:name``) for which ``sites`` is true."""
        return self._estimates.among(sites, _known(outcome))

    def bit_shares(self, outcome: str = "critical-or-due") -> dict[int, Proportion]:
        """Return the share of ``outcome`` among single-bit faults of each bit position, weighted, with intervals."""
        return self._estimates.by_bit(_known(outcome))

    def cell_shares(self, outcome: str = "critical-or-due") -> dict[tuple[str, int], Proportion]:
        """Return the share of ``outcome`` for each (site, bit position) that was tried, with intervals."""
        return self._estimates.by_site_and_bit(_known(outcome))

    def measured(self) -> dict[str, Measurement]:
        """Return the shares of all outcomes as measurements of a record."""
        return {outcome.value: self[outcome].measurement() for outcome in Outcome}


def _line(name: str, share: Proportion) -> str:
    return f"{name:16} {share.value:9.4%}  [{share.low:.4%}, {share.high:.4%}]  n = {share.n}"


def _known(outcome: str) -> str:
    if outcome not in MEASURES:
        raise unknown("outcome", outcome, MEASURES)
    return outcome
