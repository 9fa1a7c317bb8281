"""Estimates from the rows of a campaign under its design: weighted shares with intervals, by outcome, site and bit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from holdfast.execution.finite_population import without_replacement
from holdfast.execution.planner import MEASURES, Course, rounds
from holdfast.execution.planner_design import EVERYTHING, Design
from holdfast.execution.statistics import Proportion
from holdfast.execution.strata_profile import Share, profile_interval
from holdfast.execution.trials import Row


def design_of(plan: Mapping[str, Any], trials: int) -> Design:
    """Return the design that a plan records; a plan older than designs was one simple sample."""
    if "design" in plan:
        return Design.from_json(plan["design"])
    return Design((EVERYTHING,), max(1, trials), max(1, trials))


class Estimates:
    """What the rows of one campaign say about its population.

    Args:
        design: of the campaign.
        rows: sorted by trial number.
        confidence: of the intervals.
    """

    def __init__(self, design: Design, rows: Sequence[Row], confidence: float) -> None:
        self._design, self._confidence = design, confidence
        self._rounds = [] if design.simple else rounds(design, rows)
        self._rows = list(rows) if design.simple else [row for one in self._rounds for row in one]
        self._known: dict[str, Proportion] = {}
        self._by_stratum: dict[str, dict[int, float]] = {}

    def share(self, of: str) -> Proportion:
        """Return the share of an outcome, or of ``critical-or-due``, under the target law."""
        if of not in self._known:
            self._known[of] = self._fixed(of) if self._design.simple else self._sequential(of)
        return self._known[of]

    def _fixed(self, of: str) -> Proportion:
        """Return the share from one simple sample, finished or not.

        Engines run trials site by site or input by input, so that those which are done are no sample of all. Up to the
        last number that is done they would be, if none were missing: what is missing there may be anything.
        """
        n, failed = len(self._rows), _count(self._rows, of)
        drawn = self._rows[-1].trial + 1 if n else 0
        best, worst = self._sample(failed, drawn), self._sample(failed + drawn - n, drawn)
        return best if drawn == n else Proportion(failed / n, best.low, worst.high, n, failed)

    def _sample(self, failed: int, n: int) -> Proportion:
        items = self._design.parts[0].items
        if items is None:
            return Proportion.wilson(failed, n, self._confidence)
        return without_replacement(failed, n, items, self._confidence)

    def _simple(self, rows: Sequence[Row], of: str) -> Proportion:
        """Return the share among some of the trials, those of a site or bit."""
        if len(rows) == len(self._rows):
            return self._fixed(of)
        return Proportion.wilson(_count(rows, of), len(rows), self._confidence)

    def _sequential(self, of: str) -> Proportion:
        course = Course(self._design, of, self._confidence)
        for own in self._rounds:
            course.take(own)
        found = course.estimate
        low, high = max(0.0, found.low), min(1.0, found.high)
        return Proportion(min(max(found.value, low), high), low, high, found.n, _count(self._rows, of))

    @property
    def stopped(self) -> str:
        """Why the campaign is over; empty if it is not."""
        if self._design.simple:
            return "trials spent" if len(self._rows) >= min(self._design.budget, self._design.cases) else ""
        course = Course(self._design)
        for own in self._rounds:
            course.take(own)
        return course.stopped

    @property
    def effective(self) -> float:
        """Kish's effective sample size of the weights: (sum w)^2 / sum w^2."""
        weights = self.weights()
        total = math.fsum(weights)
        return total**2 / math.fsum(weight**2 for weight in weights) if total else 0.0

    def weights(self) -> list[float]:
        """Return the weight of each row of the finished rounds; for strata they sum to one."""
        if self._design.simple:
            return [1.0 / len(self._rows)] * len(self._rows) if self._rows else []
        return [self._design.weight(row) * self.credits[row.trial] for row in self._rows]

    @cached_property
    def credits(self) -> dict[int, float]:
        """By trial of the finished rounds: what a failure of its stratum counts there."""
        course = Course(self._design)
        for own in self._rounds:
            course.take(own)
        pairs = zip(self._rounds, course.credits(), strict=True)
        return {row.trial: float(credit[self._design.place(row)]) for own, credit in pairs for row in own}

    def worth(self, of: str) -> float:
        """Return how many simple random trials would know the share of ``of`` as well: p (1 - p) / variance.

        Strata without spread count with half a failure, as otherwise nothing failing yet would be worth the world.
        """
        shares = [share for share in self._strata(of) if share.n]
        p = self.share(of).value
        variance = 0.0
        for share in shares:
            smooth = (share.failed + 0.5 / len(shares)) / (share.n + 1 / len(shares))
            variance += share.mass**2 * smooth * (1 - smooth) / share.n * max(0.0, 1 - share.n / share.items)
        return p * (1 - p) / variance if variance and p else float(len(self._rows))

    def _strata(self, of: str) -> list[Share]:
        cells = _tally(self._rows, self._design.place, of)
        return [
            Share(part.mass, *cells.get(number, (0, 0)), math.inf if part.items is None else part.items)
            for number, part in enumerate(self._design.parts)
        ]

    def by_site(self, of: str) -> dict[str, Proportion]:
        """Return the share of ``of`` among the faults of each site."""
        return self._by(of, lambda row: row.site, lambda site, _: site)

    def by_bit(self, of: str) -> dict[int, Proportion]:
        """Return the share of ``of`` among the single-bit faults of each bit position, 0 the least significant."""
        return self._by(of, lambda row: row.bit, lambda _, bit: bit, single=True)

    def by_site_and_bit(self, of: str) -> dict[tuple[str, int], Proportion]:
        """Return the share of ``of`` for each site and bit position that was tried: the cells of a heat map."""
        return self._by(of, lambda row: (row.site, row.bit), lambda site, bit: (site, bit), single=True)

    def among(self, sites: Callable[[str], bool], of: str) -> Proportion:
        """Return the share of ``of`` among the faults of the sites for which ``sites`` is true; of none, 0 to 1."""
        found = self._by(of, lambda row: sites(row.site), lambda site, _: sites(site))
        return found.get(True, Proportion(0.0, 0.0, 1.0, 0, 0))

    def _by(
        self, of: str, key: Callable[[Row], Any], cell_key: Callable[[str, int], Any], *, single: bool = False
    ) -> dict[Any, Proportion]:
        rows = [row for row in self._rows if row.bit >= 0 or not single]
        groups: dict[Any, list[Row]] = defaultdict(list)
        for row in rows:
            groups[key(row)].append(row)
        if self._design.simple:
            found = {name: self._simple(own, of) for name, own in groups.items()}
        elif not self._design.parts[0].cells:
            found = {name: self._unstratified(own, of) for name, own in groups.items()}
        else:
            cells = self._cells(cell_key)
            found = {name: self._domain(own, of, cells[name]) for name, own in groups.items()}
        return dict(sorted(found.items()))

    def _unstratified(self, rows: Sequence[Row], of: str) -> Proportion:
        """Trials of one law; where a second law weights them, sites count by what they should have been."""
        sites = _tally(rows, lambda row: row.site, of)
        drawn = {site: n for site, (_, n) in sites.items()}
        ratios = self._design.ratios or dict.fromkeys(sites, 1.0)
        shares = [Share(ratios.get(site, 0.0) * drawn[site], failed, n) for site, (failed, n) in sites.items()]
        merged = shares if self._design.ratios else [Share(1.0, _count(rows, of), len(rows))]
        return profile_interval(merged, self._confidence)

    def _cells(self, key: Callable[[str, int], Any]) -> dict[Any, dict[tuple[int, str], tuple[float, float]]]:
        """Return (mass, cases) of each group's part in each (stratum, site)."""
        found: dict[Any, dict[tuple[int, str], tuple[float, float]]] = defaultdict(dict)
        for number, part in enumerate(self._design.parts):
            for site, positions, mass in part.cells:
                cases = math.inf if part.items is None else part.items * mass / part.mass
                for bit in positions:
                    own = found[key(site, bit)]
                    before = own.get((number, site), (0.0, 0.0))
                    own[number, site] = before[0] + mass / len(positions), before[1] + cases / len(positions)
        return found

    def _domain(self, rows: Sequence[Row], of: str, cells: Mapping[tuple[int, str], tuple[float, float]]) -> Proportion:
        """Estimate one group: within a stratum its trials are a sample of the stratum's part of the group."""
        tally, weighted = _tally(rows, self._design.place, of), self._weighted(rows, of)
        masses: dict[int, float] = defaultdict(float)
        cases: dict[int, float] = defaultdict(float)
        for (stratum, _), (mass, items) in cells.items():
            masses[stratum] += mass
            cases[stratum] += items
        shares = [
            Share(
                mass,
                *tally.get(number, (0, 0)),
                round_up(cases[number]),
                self._likely(of).get(number),
                weighted.get(number),
            )
            for number, mass in masses.items()
        ]
        return profile_interval(shares, self._confidence)

    def _weighted(self, rows: Sequence[Row], of: str) -> dict[int, float]:
        """Return the share of each stratum among ``rows``, by what each trial counts."""
        wanted, failed, whole = MEASURES[of], defaultdict[int, float](float), defaultdict[int, float](float)
        for row in rows:
            place, credit = self._design.place(row), self.credits[row.trial]
            whole[place] += credit
            failed[place] += credit * (row.outcome in wanted)
        return {place: min(1.0, failed[place] / total) for place, total in whole.items()}

    def _likely(self, of: str) -> dict[int, float]:
        """Return the share of each stratum: what a site of it that was not tried is likely to have."""
        if of not in self._by_stratum:
            self._by_stratum[of] = self._weighted(self._rows, of)
        return self._by_stratum[of]


def round_up(cases: float) -> float:
    """Return a number of cases that came out of a division as the whole number it is."""
    return cases if math.isinf(cases) else round(cases)


def _count(rows: Iterable[Row], of: str) -> int:
    wanted = MEASURES[of]
    return sum(row.outcome in wanted for row in rows)


def _tally(rows: Iterable[Row], key: Callable[[Row], Any], of: str) -> dict[Any, tuple[int, int]]:
    """Return (failed, all) trials by key."""
    wanted, found = MEASURES[of], dict[Any, tuple[int, int]]()
    for row in rows:
        failed, n = found.get(key(row), (0, 0))
        found[key(row)] = failed + (row.outcome in wanted), n + 1
    return found
