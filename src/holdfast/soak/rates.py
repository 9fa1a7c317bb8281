"""Rates of rare events over an exposure, with exact intervals, and what they mean at sea level.

Poisson counts: the interval of the mean is [chi2(a/2; 2k)/2, chi2(1-a/2; 2k+2)/2] (Garwood, 1936). Two rates are
compared exactly, conditional on their sum, by a binomial test (Przyborowski & Wilenski, 1940). A cross-section is
events per fluence; FIT = sigma x 13 n/(cm2 h) x 1e9 h (JESD89B, sea level, New York City).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.evidence.record import Measurement
from holdfast.execution.statistics import Proportion, check_confidence

SEA_LEVEL = 13.0  # neutrons above 10 MeV per cm2 and hour
_HOURS = 1e9  # of one FIT


@dataclass(frozen=True, slots=True)
class Rate:
    """``events`` per second with a two-sided interval; without events the lower end is 0, the upper one finite."""

    events: int
    seconds: float  # of exposure known to have passed
    value: float
    low: float
    high: float

    @classmethod
    def poisson(cls, events: int, seconds: float, confidence: float = 0.95, *, unseen: float = 0.0) -> Rate:
        """Estimate a rate from a count.

        Args:
            events: counted.
            seconds: exposure up to the last thing that was written down.
            confidence: of the interval, at least.
            unseen: at most so many more seconds passed unrecorded: the value takes half of them, the interval both
                extremes.

        Raises:
            InvalidConfig: a negative count or time, or no exposure at all.
        """
        check_confidence(confidence)
        if events < 0 or unseen < 0 or not seconds + unseen > 0 or not math.isfinite(seconds + unseen):
            raise InvalidConfig(f"{events} events in {seconds} s are no rate", hint="the exposure is above zero")
        tail = (1 - confidence) / 2
        least = float(stats.chi2.ppf(tail, 2 * events)) / 2 if events else 0.0
        most = float(stats.chi2.ppf(1 - tail, 2 * events + 2)) / 2
        high = most / seconds if seconds > 0 else math.inf
        return cls(events, seconds, events / (seconds + unseen / 2), least / (seconds + unseen), high)

    def scaled(self, factor: float) -> Rate:
        """Return it in another unit."""
        return Rate(self.events, self.seconds, *(factor * item for item in (self.value, self.low, self.high)))

    def measurement(self, unit: str = "1/s") -> Measurement:
        """Return it as a measurement of a record; ``n`` is the number of events.

        Raises:
            InvalidConfig: the exposure is only known to lie above zero, so that the rate has no upper bound.
        """
        return Measurement(self.value, self.low, self.high, self.events, unit)


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a rate: ``value`` is new/old - 1, so -0.9 is ten times fewer; ``p`` of the two-sided test."""

    value: float  # infinite when the old arm saw nothing
    low: float
    high: float
    p: float


def compare_rates(old: tuple[int, float], new: tuple[int, float], confidence: float = 0.95) -> Change:
    """Compare two (events, seconds), exactly: given their sum, the new count is binomial under equal rates.

    Raises:
        InvalidConfig: no exposure.
    """
    (first, before), (second, after) = old, new
    if not before > 0 or not after > 0:
        raise InvalidConfig("two rates are compared over two exposures above zero")
    total = first + second
    share = Proportion.clopper_pearson(second, total, confidence)
    p = float(stats.binomtest(second, total, after / (before + after)).pvalue) if total else 1.0
    ends = [_odds(item) * before / after - 1 for item in (share.low, share.high)]
    value = second / after / (first / before) - 1 if first else (math.inf if second else math.nan)
    return Change(value, ends[0], ends[1], p)


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf


def cross_section(rate: Rate, flux: float) -> Rate:
    """Return the cross-section in cm2 from a rate in 1/s under ``flux`` n/(cm2 s).

    Raises:
        InvalidConfig: a flux that is not positive.
    """
    if not flux > 0 or not math.isfinite(flux):
        raise InvalidConfig(f"a flux is positive, not {flux}", hint="n/(cm2 s), such as 5e6")
    return rate.scaled(1 / flux)


def fit(sigma: Rate, sea_level: float = SEA_LEVEL) -> Rate:
    """Return failures in 1e9 hours from a cross-section in cm2."""
    return sigma.scaled(sea_level * _HOURS)


def mttf(failures: Rate) -> tuple[float, float, float]:
    """Return (value, low, high) hours to failure from FIT; infinite where no failure was seen."""
    rates = (failures.value, failures.high, failures.low)
    value, low, high = (_HOURS / item if item > 0 else math.inf for item in rates)
    return value, low, high


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for having asked so many questions (Holm, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return adjusted
