"""From counts to conclusions: a rate for every arm, every arm against its base, and what the counts cannot carry.

Three habits of published beam tables are avoided: rates without intervals, arms compared by eye, and an average that
one correlated episode carries. Every rate has its exact interval, every pair its exact test (adjusted by Holm for how
many were asked), every group its test of dispersion, and the pooled figure is given without each subject in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.evidence.record import Measurement
from holdfast.soak.counts import BASE, Counts
from holdfast.soak.dispersion import Dispersion, dispersion, widened
from holdfast.soak.rates import Change, Rate, compare_rates, holm

LEVEL = 0.05  # of comparisons, after Holm
DISPERSED = 0.01  # of dispersion tests, after Holm


@dataclass(frozen=True, slots=True)
class Arm:
    """All sessions of one arm together; ``due`` is None where nobody counted them."""

    subject: str
    arm: str
    sessions: int
    seconds: float
    unseen: float
    sdc: Rate
    critical: Rate
    due: Rate | None
    episodes: int | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One arm against the base of its subject: critical events, and all silent ones."""

    subject: str
    arm: str
    critical: Change
    sdc: Change
    adjusted: float  # Holm's p of the critical change over all pairs

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``undecided`` at 5 % after Holm."""
        if self.adjusted >= LEVEL:
            return "undecided"
        return "worse" if self.critical.value > 0 else "better"


@dataclass(frozen=True, slots=True)
class Spread:
    """A subject's test of dispersion with Holm's p over all of them."""

    subject: str
    arm: str  # empty where the arms themselves are the parts
    test: Dispersion
    adjusted: float

    @property
    def over(self) -> bool:
        """Whether the counts vary more than a Poisson law allows, at 1 % after Holm."""
        return self.test.index > 1 and self.adjusted < DISPERSED

    def wider(self, rate: Rate, confidence: float) -> tuple[float, float] | None:
        """Return the interval of an arm's rate that allows for this spread; None where it was not tested, or 0."""
        if not self.over or not self.arm or not rate.events:
            return None
        return widened(rate.value, rate.events, self.test.index, confidence)


@dataclass(frozen=True, slots=True)
class Pool:
    """The critical change over all subjects together, or over all but ``without``."""

    arm: str
    without: str  # empty for all
    base: tuple[int, float]
    other: tuple[int, float]
    change: Change


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a set of counts says."""

    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    spreads: tuple[Spread, ...]
    pools: tuple[Pool, ...]
    confidence: float

    def wider(self, spread: Spread) -> tuple[float, float] | None:
        """Return the SDC rate's interval of a spread's arm that allows for the spread, per second."""
        rates = [arm.sdc for arm in self.arms if (arm.subject, arm.arm) == (spread.subject, spread.arm)]
        return spread.wider(rates[0], self.confidence) if rates else None

    def measurements(self) -> dict[str, Measurement]:
        """Return the rates per second as a record holds them, by ``outcome@subject@arm``."""
        found: dict[str, Measurement] = {}
        for arm in self.arms:
            rates = {"sdc": arm.sdc, "critical": arm.critical, "due": arm.due}
            named = {f"{name}@{arm.subject}@{arm.arm}": rate for name, rate in rates.items()}
            found |= {name: rate.measurement() for name, rate in named.items() if rate and math.isfinite(rate.high)}
        return found


def analyse(rows: Iterable[Counts], *, confidence: float = 0.95, seed: int = 0) -> Analysis:
    """Estimate, compare and test.

    Args:
        rows: sessions of arms; those of one subject and arm are added up.
        confidence: of all intervals.
        seed: of dispersion tests on small counts.

    Raises:
        InvalidConfig: nothing to analyse, or an arm without any exposure.
    """
    grouped: dict[tuple[str, str], list[Counts]] = {}
    for row in rows:
        grouped.setdefault((row.subject, row.arm), []).append(row)
    if not grouped:
        raise InvalidConfig("there is nothing to analyse")
    arms = tuple(_arm(name, arm, sessions, confidence) for (name, arm), sessions in grouped.items())
    couples = [(base, other) for base in arms if base.arm == BASE for other in arms if _rivals(base, other)]
    return Analysis(
        arms, _pairs(couples, confidence), _spreads(grouped, couples, seed), _pools(couples, confidence), confidence
    )


def _rivals(base: Arm, other: Arm) -> bool:
    return other.subject == base.subject and other.arm != BASE


def _arm(subject: str, arm: str, sessions: Sequence[Counts], confidence: float) -> Arm:
    seconds, unseen = math.fsum(row.seconds for row in sessions), math.fsum(row.unseen for row in sessions)
    dues, groups = [row.due for row in sessions], [row.episodes for row in sessions]

    def rate(events: int) -> Rate:
        return Rate.poisson(events, seconds, confidence, unseen=unseen)

    return Arm(
        subject, arm, len(sessions), seconds, unseen,
        rate(sum(row.sdc for row in sessions)),
        rate(sum(row.critical for row in sessions)),
        None if None in dues else rate(sum(item or 0 for item in dues)),
        None if None in groups else sum(item or 0 for item in groups),
    )  # fmt: skip


def _time(arm: Arm) -> float:
    return arm.seconds + arm.unseen / 2


def _pairs(couples: Sequence[tuple[Arm, Arm]], confidence: float) -> tuple[Pair, ...]:
    critical = [
        compare_rates((base.critical.events, _time(base)), (other.critical.events, _time(other)), confidence)
        for base, other in couples
    ]
    adjusted = holm([change.p for change in critical])
    return tuple(
        Pair(other.subject, other.arm, change, _silent(base, other, confidence), p)
        for (base, other), change, p in zip(couples, critical, adjusted, strict=True)
    )


def _silent(base: Arm, other: Arm, confidence: float) -> Change:
    return compare_rates((base.sdc.events, _time(base)), (other.sdc.events, _time(other)), confidence)


def _spreads(
    grouped: dict[tuple[str, str], list[Counts]], couples: Sequence[tuple[Arm, Arm]], seed: int
) -> tuple[Spread, ...]:
    """Test the sessions of each arm; where every arm has one session only, the arms of each subject instead."""
    tests: list[tuple[str, str, Dispersion]] = []
    for (subject, arm), sessions in grouped.items():
        timed = [row for row in sessions if row.seconds + row.unseen > 0]
        if len(timed) > 1:
            basis = "logs" if any(row.episodes is not None for row in timed) else "sessions"
            times = [row.seconds + row.unseen / 2 for row in timed]
            tests.append((subject, arm, dispersion([row.sdc for row in timed], times, basis=basis, seed=seed)))
    if not tests:
        for base, other in couples:
            counts, times = [base.sdc.events, other.sdc.events], [_time(base), _time(other)]
            tests.append((base.subject, "", dispersion(counts, times, basis="arms", seed=seed)))
    adjusted = holm([test.p for _, _, test in tests])
    return tuple(Spread(*item, p) for item, p in zip(tests, adjusted, strict=True))


def _pools(couples: Sequence[tuple[Arm, Arm]], confidence: float) -> tuple[Pool, ...]:
    """Pool every arm over its subjects, then leave out each subject in turn."""
    found: list[Pool] = []
    for arm in dict.fromkeys(other.arm for _, other in couples):
        these = [(base, other) for base, other in couples if other.arm == arm]
        if len(these) > 1:
            left_out = ["", *(base.subject for base, _ in these)]
            found.extend(_pool(these, arm, without, confidence) for without in left_out)
    return tuple(found)


def _pool(couples: Sequence[tuple[Arm, Arm]], arm: str, without: str, confidence: float) -> Pool:
    kept = [(base, other) for base, other in couples if base.subject != without]
    base, other = (_total(side) for side in zip(*kept, strict=True))
    return Pool(arm, without, base, other, compare_rates(base, other, confidence))


def _total(side: Sequence[Arm]) -> tuple[int, float]:
    return sum(arm.critical.events for arm in side), math.fsum(map(_time, side))
