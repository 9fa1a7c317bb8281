"""Failures in time from measured cross-sections and a campaign's vulnerability factors.

FIT counts failures in 10^9 hours: the cross-section of a structure (cm2) x the flux of neutrons (13 per cm2 and hour at
sea level in New York, JEDEC JESD89) x 10^9 x the share of its upsets that fail. MTTF is 10^9 / FIT hours.

Two of the factors are estimates: a cross-section from counted events (Poisson), a vulnerability from counted trials
(binomial). Each has a lower and an upper confidence distribution, whose quantiles are Garwood's chi-square and Clopper
and Pearson's bounds; a product or sum takes its bounds from those distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution.planner import MEASURES
from holdfast.execution.report import FAILURES, CampaignReport
from holdfast.execution.report_weights import chances
from holdfast.execution.row import Row
from holdfast.execution.statistics import Estimate, Proportion, check_confidence
from holdfast.execution.structures import Structure
from holdfast.execution.vulnerability import Weight, selector, weighted, within
from holdfast.seeds import derive

FLUX = 13.0  # neutrons per cm2 and hour above 10 MeV
HOURS = 1e9
_ROUNDING = 1e-12  # of sums of shares
METHODS = ("monte-carlo", "bonferroni")

Levels = NDArray[np.float64]
Quantiles = Callable[[Levels], Levels]


def poisson_interval(events: int, confidence: float = 0.95) -> Estimate:
    """Return Garwood's interval (1936) for the mean of a Poisson count; of no events, [0, 3.69] at 95 %.

    Raises:
        InvalidConfig: a negative count.
    """
    check_confidence(confidence)
    if events < 0:
        raise InvalidConfig(f"{events} events cannot be counted")
    tail, count = (1 - confidence) / 2, _counted(events)
    return Estimate(events, float(count.low(np.array(tail))), float(count.high(np.array(1 - tail))), events)


def zero_event_bound(exposure: float, confidence: float = 0.95) -> float:
    """Return the one-sided upper bound of a rate of which ``exposure`` showed no event: 3.0 / exposure at 95 %."""
    check_confidence(confidence)
    if not exposure > 0:
        raise InvalidConfig(f"an exposure is positive, not {exposure}")
    return -math.log(1 - confidence) / exposure


@dataclass(frozen=True)
class Reliability:
    """Rates of failure of one model on one machine.

    Attributes:
        structures: FIT of each, by name.
        total: FIT of all together.
        failures: outcomes that count.
        confidence: of the intervals.
    """

    structures: Mapping[str, Estimate]
    total: Estimate
    failures: tuple[str, ...]
    confidence: float

    @property
    def mttf(self) -> Estimate:
        """Mean hours to failure; infinite where no failure was seen."""
        value, low, high = (
            HOURS / fit if fit else math.inf for fit in (self.total.value, self.total.high, self.total.low)
        )
        return Estimate(value, low, high, self.total.n)


def reliability(
    rows: Iterable[Row],
    structures: Sequence[Structure],
    *,
    failures: Collection[str] = FAILURES,
    flux: float = FLUX,
    weight: Weight | None = None,
    confidence: float = 0.95,
    method: str = "monte-carlo",
    seed: int = 0,
) -> Reliability:
    """Return the FIT of each structure and of all.

    A structure that names sites fails as often as faults in them failed in the campaign; one that names none is
    charged with every upset. Both methods give the exact interval where only one factor is an estimate.

    Args:
        rows: of a campaign.
        structures: see :func:`~holdfast.execution.structures.read_structures`.
        failures: outcomes that count; DUEs and silent errors are best asked for one by one.
        flux: neutrons per cm2 and hour.
        weight: of a trial, see :func:`~holdfast.execution.vulnerability.vulnerability`.
        confidence: of the intervals.
        method: ``monte-carlo`` draws from the confidence distributions of all factors; ``bonferroni`` gives each
            factor its share of what may fail, and never covers too seldom.
        seed: of the draws.

    Raises:
        InvalidConfig: no structures, two of one name, or a flux that is not positive.
        NoSuchSite: a structure names sites that no trial hit.
        UnknownName: another method.
    """
    table = list(rows)
    return _rates(
        structures, lambda at: _of_rows(table, at, failures, weight), failures, flux, confidence, method, seed
    )


def reliability_of(
    report: CampaignReport,
    structures: Sequence[Structure],
    *,
    outcome: str = "critical-or-due",
    flux: float = FLUX,
    confidence: float | None = None,
    method: str = "monte-carlo",
    seed: int = 0,
) -> Reliability:
    """Return the FIT of each structure and of all, from the shares of a campaign under its own law.

    As :func:`reliability`, with the weights of strata and of the sampling law. The interval of a share that was
    followed while trials were drawn is a confidence sequence; it enters as that of so many independent trials as have
    no narrower one.

    Args:
        report: of a campaign.
        structures: see :func:`~holdfast.execution.structures.read_structures`.
        outcome: what counts as a failure.
        flux: neutrons per cm2 and hour.
        confidence: of the intervals; None: that of the report.
        method: ``monte-carlo`` or ``bonferroni``.
        seed: of the draws.

    Raises:
        InvalidConfig: no structures, two of one name, a flux that is not positive, or a cross-section per bit where the
            campaign's law does not draw every bit alike.
        NoSuchSite: a structure names sites that no trial hit.
        UnknownName: another method or outcome.
    """
    if outcome not in MEASURES:
        raise unknown("outcome", outcome, MEASURES)
    level = report.confidence if confidence is None else confidence
    for item in structures:
        _require_bits_alike(report, item)
    own = replace(report, confidence=level)
    return _rates(structures, lambda at: _of_report(own, at, outcome), MEASURES[outcome], flux, level, method, seed)


def _require_bits_alike(report: CampaignReport, item: Structure) -> None:
    """Refuse a cross-section per bit where faults did not strike every bit alike: its share is that of another beam."""
    if item.bits is None or item.sites is None:
        return
    inside = selector(item.sites)
    found = [chance for site, chance in chances(report.plan).items() if inside(site)]
    if found and max(found) > min(found) * (1 + _ROUNDING):
        law = report.plan.get("target", report.plan["sampling"])
        raise InvalidConfig(
            f"{item.name}: an upset strikes every bit alike, and a fault of this campaign, {law}, does not",
            hint="ask report.under('bit-uniform'), or sample bit-uniform",
        )


def require_hit(structures: Iterable[Structure], addresses: Collection[str]) -> None:
    """Raise :class:`NoSuchSite` where a structure names sites of which none is among ``addresses``."""
    for item in structures:
        if item.sites is not None and not any(map(selector(item.sites), addresses)):
            raise NoSuchSite(
                f"{item.name}: the campaign strikes none of {item.sites}", hint="select them with at= (--at) as well"
            )


def _rates(
    structures: Sequence[Structure],
    share: Callable[[str], _Factor],
    failures: Collection[str],
    flux: float,
    confidence: float,
    method: str,
    seed: int,
) -> Reliability:
    check_confidence(confidence)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not structures or len({item.name for item in structures}) < len(structures) or not flux > 0:
        raise InvalidConfig("reliability takes structures of different names and a positive flux")
    terms = {item.name: _term(item, share, flux) for item in structures}
    rule: Callable[[Sequence[_Term]], Estimate]
    if method == "bonferroni":
        rule = lambda parts: _bonferroni(parts, confidence)  # noqa: E731
    else:
        rule = lambda parts: _monte_carlo(parts, confidence, seed)  # noqa: E731
    fits = {name: rule([term]) for name, term in terms.items()}
    return Reliability(fits, rule(list(terms.values())), tuple(failures), confidence)


@dataclass(frozen=True)
class _Factor:
    """An estimate with quantile functions of its lower and upper confidence distribution.

    Factors of one ``source`` were estimated from the same counts and move together.
    """

    value: float
    low: Quantiles
    high: Quantiles
    source: object
    n: int = 0

    @property
    def edges(self) -> tuple[Quantiles, Quantiles]:
        return self.low, self.high


@dataclass(frozen=True)
class _Term:
    """One structure: a known number times estimates."""

    known: float
    factors: tuple[_Factor, ...]

    @property
    def value(self) -> float:
        return self.known * math.prod(factor.value for factor in self.factors)

    def at(self, levels: Callable[[_Factor], Levels], side: int) -> Levels:
        """Return the values of the term where each factor stands at its level; side 0 is the lower one."""
        product = np.float64(self.known) * np.ones(1)
        for factor in self.factors:
            product = product * factor.edges[side](levels(factor))
        return product


def _counted(events: int, scale: float = 1.0, source: object = None) -> _Factor:
    """Return events x scale (Garwood, 1936); a gamma quantile is half a chi-square one."""
    low: Quantiles = lambda q: scale * (special.gammaincinv(events, q) if events else np.zeros_like(q))  # noqa: E731
    high: Quantiles = lambda q: scale * special.gammaincinv(events + 1, q)  # noqa: E731
    return _Factor(events * scale, low, high, source, events)


def _share(failed: float, trials: float, source: object) -> _Factor:
    """Return a proportion (Clopper and Pearson, 1934); counts need not be whole where trials have weights."""
    rest = trials - failed
    low: Quantiles = lambda q: special.betaincinv(failed, rest + 1, q) if failed > 0 else np.zeros_like(q)  # noqa: E731
    high: Quantiles = lambda q: special.betaincinv(failed + 1, rest, q) if rest > 0 else np.ones_like(q)  # noqa: E731
    return _Factor(failed / trials, low, high, source, math.floor(trials))


def _of_rows(rows: list[Row], at: str, failures: Collection[str], weight: Weight | None) -> _Factor:
    hit = within(rows, at)
    failed = [row.outcome in failures for row in hit]
    share, worth = (sum(failed) / len(hit), len(hit)) if weight is None else weighted(hit, failed, weight)
    return _share(share * worth, worth, ("sites", at))


def _of_report(report: CampaignReport, at: str, outcome: str) -> _Factor:
    found = report.share_among(selector(at), outcome)
    if not found.n:
        raise NoSuchSite(f"no trial of the campaign hit {at}", hint="run more trials, or strata with a margin")
    if found.high - found.low < _ROUNDING:  # every case was tried
        exact: Quantiles = lambda q: np.full_like(q, found.value)  # noqa: E731
        return _Factor(found.value, exact, exact, ("sites", at), found.n)
    if report.design.simple:
        return _share(found.successes, found.n, ("sites", at))
    return _share(found.value * (worth := _worth(found, report.confidence)), worth, ("sites", at))


def _worth(found: Proportion, confidence: float) -> float:
    """Return how many independent trials with this share have an interval no narrower than ``found``, one at least."""
    tail = np.array((1 - confidence) / 2)

    def covers(trials: float) -> bool:
        factor = _share(found.value * trials, trials, None)
        return bool(factor.low(tail) <= found.low and factor.high(1 - tail) >= found.high)

    low, high = 0.0, 40.0  # of the binary logarithm
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if covers(2.0**middle) else (low, middle)
    return float(2.0**low)


def _term(item: Structure, share: Callable[[str], _Factor], flux: float) -> _Term:
    section, factors = item.section, list[_Factor]()
    known = flux * HOURS * item.derating * (item.bits if item.bits is not None else 1.0)
    if section.events is None:
        known *= section.value
    else:
        factors.append(_counted(section.events, 1 / section.exposure, ("section", item.name)))
    if item.sites is not None:
        factors.append(share(item.sites))
    return _Term(known, tuple(factors))


def _sources(terms: Sequence[_Term]) -> list[object]:
    return list(dict.fromkeys(factor.source for term in terms for factor in term.factors))


def _bounds(terms: Sequence[_Term], levels: Callable[[int], Callable[[_Factor], Levels]]) -> list[Levels]:
    return [np.asarray(sum((term.at(levels(side), side) for term in terms), np.zeros(1))) for side in (0, 1)]


def _bonferroni(terms: Sequence[_Term], confidence: float) -> Estimate:
    tail = (1 - confidence) / 2 / max(1, len(_sources(terms)))
    edges = [np.array([tail]), np.array([1 - tail])]
    low, high = _bounds(terms, lambda side: lambda _: edges[side])
    return _estimate(terms, float(low[0]), float(high[0]))


def _monte_carlo(terms: Sequence[_Term], confidence: float, seed: int, draws: int = 10_000) -> Estimate:
    sources, tail = _sources(terms), (1 - confidence) / 2
    if len(sources) <= 1:  # every bound is monotone in the only estimate: nothing to draw
        return _bonferroni(terms, confidence)
    grid = (np.arange(draws) + 0.5) / draws  # a Latin hypercube: every factor goes through all of its levels once
    uniform: dict[object, Levels] = {
        source: derive(seed, "reliability", number).numpy().permutation(grid) for number, source in enumerate(sources)
    }
    low, high = _bounds(terms, lambda _: lambda factor: uniform[factor.source])
    return _estimate(terms, float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail)))


def _estimate(terms: Sequence[_Term], low: float, high: float) -> Estimate:
    value = math.fsum(term.value for term in terms)
    n = min((factor.n for term in terms for factor in term.factors), default=0)
    return Estimate(value, min(low, value), max(high, value), n)


def describe_reliability(found: Reliability) -> dict[str, Any]:
    """Return the rates as plain JSON values; an infinite time to failure is None."""

    def plain(item: Estimate) -> dict[str, float | None]:
        edges = {"value": item.value, "low": item.low, "high": item.high}
        return {name: None if math.isinf(edge) else edge for name, edge in edges.items()}

    return {
        "structures": {name: plain(item) for name, item in found.structures.items()},
        "total_fit": plain(found.total),
        "mttf_hours": plain(found.mttf),
        "failures": list(found.failures),
        "confidence": found.confidence,
    }
