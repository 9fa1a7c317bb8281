"""What a campaign found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.compare import Outcome
from holdfast.execution.statistics import Proportion, mcnemar
from holdfast.execution.store import Row


@dataclass(frozen=True)
class CampaignReport:
    """The finished trials of one campaign and the plan they followed."""

    name: str
    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    confidence: float = 0.95

    @property
    def trials(self) -> int:
        """Number of finished trials."""
        return len(self.rows)

    def __getitem__(self, outcome: str) -> Proportion:
        """Return the share of an outcome (``masked``, ``sdc``, ``critical``, ``detected``, ``due``), Wilson interval."""
        if outcome not in list(Outcome):
            raise unknown("outcome", outcome, list(Outcome))
        hits = sum(row.outcome == outcome for row in self.rows)
        return Proportion.wilson(hits, self.trials, self.confidence)

    def by_site(self) -> dict[str, dict[str, int]]:
        """Return the count of each outcome per site, in the order of first appearance in the sorted table."""
        table: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self.rows:
            table[row.site][row.outcome] += 1
        return {site: {outcome.value: table[site][outcome.value] for outcome in Outcome} for site in sorted(table)}

    def by_bit(self) -> dict[int, tuple[int, int]]:
        """Return, per bit position, how many single-bit trials ended critical or DUE, and how many there were."""
        table: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        for row in self.rows:
            if row.bit >= 0:
                table[row.bit][0] += row.outcome in (Outcome.CRITICAL, Outcome.DUE)
                table[row.bit][1] += 1
        return {bit: (table[bit][0], table[bit][1]) for bit in sorted(table)}

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) over all rows; equal for every executor, sharding and resumption."""
        return digest_bytes(canonical.dumps([[str(value) for value in astuple(row)] for row in self.rows]))


def paired(first: CampaignReport, second: CampaignReport, outcomes: tuple[str, ...] = ("critical", "due")) -> float:
    """Return McNemar's exact p-value that both arms fail equally often on the same faults and inputs.

    Raises:
        InvalidConfig: the arms did not run the same trials.
    """
    keys = [[(row.trial, row.site, row.element, row.bit, row.input) for row in arm.rows] for arm in (first, second)]
    if keys[0] != keys[1]:
        raise InvalidConfig("the two campaigns did not run the same faults", hint="use one seed and equal sites")
    pairs = [(a.outcome in outcomes, b.outcome in outcomes) for a, b in zip(first.rows, second.rows, strict=True)]
    return mcnemar(pairs.count((True, False)), pairs.count((False, True)))
