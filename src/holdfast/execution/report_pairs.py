"""Two arms of a campaign that met the same faults: what hardening changes, free of what chance drew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution.planner import MEASURES
from holdfast.execution.planner_design import Design
from holdfast.execution.report_estimates import design_of
from holdfast.execution.statistics import mcnemar
from holdfast.execution.strata_sequence import StratifiedSequence
from holdfast.execution.trials import Row

if TYPE_CHECKING:
    from holdfast.execution.report import CampaignReport

FAILURES = MEASURES["critical-or-due"]


@dataclass(frozen=True, slots=True)
class Paired:
    """Two arms that met the same faults on the same inputs; a failure is CRITICAL or DUE.

    Attributes:
        n: pairs of trials: those that both arms ran.
        only_first: pairs in which only the first arm failed; ``only_second`` the other way round.
        difference: failure rate of the second arm minus that of the first, under the campaign's law.
        p_value: of "both fail equally often": McNemar's exact two-sided test where all pairs weigh the same, the
            inverse of the largest capital won by betting against it where strata weigh them.
        low: end of the interval of ``difference``; ``high`` likewise.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    p_value: float
    low: float
    high: float


Pair = tuple[Row, Row]


def paired(first: CampaignReport, second: CampaignReport) -> Paired:
    """Compare two campaigns over the trials that both ran.

    Pairs of one simple sample are compared by McNemar's exact test (1947), and their difference with the interval of
    Bonett & Price (2012). Pairs from strata are weighted as the strata are, with an interval that stays valid although
    the two arms chose for themselves where to look and when to stop.

    Raises:
        InvalidConfig: the campaigns are empty or did not draw from the same faults.
    """
    one, other = (design_of(report.plan, report.trials) for report in (first, second))
    same = (one.parts, one.ratios, one.simple) == (other.parts, other.ratios, other.simple)
    rounds = _common(first, second, one) if same else []
    pairs = [pair for own in rounds for pair in own]
    if not pairs or any(_identity(a) != _identity(b) for a, b in pairs):
        raise InvalidConfig(
            f"{first.name!r} and {second.name!r} did not run the same trials",
            hint="use one seed, one fault, one dataset, one plan and the same sites for both",
        )
    failed = [(a.outcome in FAILURES, b.outcome in FAILURES) for a, b in pairs]
    only_first, only_second = failed.count((True, False)), failed.count((False, True))
    if one.simple:
        return _plain(len(pairs), only_first, only_second, first.confidence)
    difference, p_value, low, high = _weighted(rounds, one, first.confidence)
    return Paired(len(pairs), only_first, only_second, difference, p_value, low, high)


def _common(first: CampaignReport, second: CampaignReport, design: Design) -> list[list[Pair]]:
    """Return the common trials, in the rounds in which the later arm ran them."""
    if design.simple:
        return [list(zip(first.rows, second.rows, strict=False))]
    draws: list[list[list[Row]]] = [[[] for _ in design.parts] for _ in range(2)]
    done, found = [0] * len(design.parts), list[list[Pair]]()
    for own in zip(first.rounds, second.rounds, strict=False):
        for arm, rows in enumerate(own):
            for row in rows:
                draws[arm][design.place(row)].append(row)
        fresh: list[Pair] = []
        for h, start in enumerate(done):
            done[h] = min(len(draws[0][h]), len(draws[1][h]))
            fresh += zip(draws[0][h][start : done[h]], draws[1][h][start : done[h]], strict=True)
        found.append(fresh)
    return found


def _plain(n: int, only_first: int, only_second: int, confidence: float) -> Paired:
    # one imagined pair of each discordant kind keeps the interval open where no pair differs
    one, other = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    half = z * math.sqrt((one + other - (other - one) ** 2) / (n + 2))
    difference = (only_second - only_first) / n
    low, high = max(-1.0, other - one - half), min(1.0, other - one + half)
    p_value = mcnemar(only_first, only_second)
    return Paired(n, only_first, only_second, difference, p_value, min(low, difference), max(high, difference))


def _weighted(rounds: list[list[Pair]], design: Design, confidence: float) -> tuple[float, float, float, float]:
    """Return difference, p-value and interval; a pair counts w (1 + d) / 2 with d = -1, 0 or 1."""
    sequence = StratifiedSequence(design.layers, confidence)
    weights = np.array([layer.most for layer in design.layers])
    limit, information, evidence = math.log(2 / (1 - confidence)), 0.0, 0.0
    differing, seen = np.zeros(len(weights)), np.zeros(len(weights))
    for own in rounds:
        values: list[list[float]] = [[] for _ in design.parts]
        unlike = np.zeros(len(weights))
        for a, b in own:
            h, d = design.place(a), (b.outcome in FAILURES) - (a.outcome in FAILURES)
            values[h].append(design.weight(a) * (1 + d) / 2)
            unlike[h] += abs(d)
        counts = np.array([len(item) for item in values])
        smooth = (differing + (differing.sum() + 0.5) / (seen.sum() + 1) + 0.5 / len(weights)) / (seen + 2)
        variance = max(sequence.variance(counts, weights / 2 * np.sqrt(smooth)), 1e-300)
        information += 1 / variance
        sequence.add([np.array(item) for item in values], math.sqrt(2 * limit / information) / variance)
        evidence = max(evidence, sequence.evidence(0.5))
        differing, seen = differing + unlike, seen + counts
    found = sequence.estimate
    low, high = max(-1.0, 2 * found.low - 1), min(1.0, 2 * found.high - 1)
    return min(max(2 * found.value - 1, low), high), min(1.0, math.exp(-evidence)), low, high


def _identity(row: Row) -> tuple[str, int, int, int]:
    return row.site, row.element, row.bit, row.input
