"""Estimates with their intervals, and how many trials an interval costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.evidence.record import Measurement


@dataclass(frozen=True, slots=True)
class Proportion:
    """``successes`` of ``n`` with a two-sided interval; with no trials at all the interval is [0, 1]."""

    value: float
    low: float
    high: float
    n: int
    successes: int

    @classmethod
    def wilson(cls, successes: int, n: int, confidence: float = 0.95) -> Proportion:
        """Wilson's score interval (1927): close to its nominal coverage, also near zero."""
        _check(successes, n, confidence)
        if n == 0:
            return cls(0.0, 0.0, 1.0, 0, 0)
        found = wilson_of_mean(successes / n, n, confidence)
        return cls(found.value, found.low, found.high, n, successes)

    @classmethod
    def clopper_pearson(cls, successes: int, n: int, confidence: float = 0.95) -> Proportion:
        """Clopper and Pearson's exact interval (1934): never below its nominal coverage."""
        _check(successes, n, confidence)
        tail = (1 - confidence) / 2
        low = float(stats.beta.ppf(tail, successes, n - successes + 1)) if successes else 0.0
        high = float(stats.beta.ppf(1 - tail, successes + 1, n - successes)) if successes < n else 1.0
        return cls(successes / n if n else 0.0, low, high, n, successes)

    def measurement(self) -> Measurement:
        """Return it as a measurement of a record."""
        return Measurement(self.value, self.low, self.high, self.n, "proportion")


def _check(successes: int, n: int, confidence: float) -> None:
    if not 0 <= successes <= n:
        raise InvalidConfig(f"{successes} of {n} is no proportion")
    check_confidence(confidence)


def check_confidence(confidence: float) -> None:
    """Raise :class:`InvalidConfig` unless ``confidence`` lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise InvalidConfig(f"a confidence lies between 0 and 1, not {confidence}", hint="write 0.95 for 95 %")


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean with Student's t interval over ``n`` independent values, and their sample standard deviation."""

    value: float
    low: float
    high: float
    n: int
    std: float

    @classmethod
    def student_t(
        cls, values: Sequence[float], confidence: float = 0.95, *, least: float = -math.inf, most: float = math.inf
    ) -> MeanEstimate:
        """Estimate the mean of values in [``least``, ``most``], which the interval does not leave.

        Values that do not vary have no such interval, and certainty is not what they show. Theirs is what n equal
        values of any law allow: they come with a chance of at most p**(n-1) where the likeliest value has p, so all
        but alpha**(1/(n-1)) of the law may lie anywhere in the range. Of a single value that is the whole range.

        Raises:
            InvalidConfig: no values.
        """
        check_confidence(confidence)
        if not values:
            raise InvalidConfig("a mean needs at least one value")
        n, mean = len(values), math.fsum(values) / len(values)
        if math.isclose(min(values), max(values), rel_tol=1e-12, abs_tol=1e-15):  # differences are off by a rounding
            unseen = 1.0 if n == 1 else -math.expm1(math.log1p(-confidence) / (n - 1))
            low, high = mean - unseen * (mean - least), mean + unseen * (most - mean)
            return cls(mean, max(low, least), min(high, most), n, 0.0 if n > 1 else math.nan)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * std / math.sqrt(n)
        return cls(mean, max(mean - half, least), min(mean + half, most), n, std)

    @classmethod
    def of_shares(cls, values: Sequence[float], confidence: float = 0.95) -> MeanEstimate:
        """Estimate the mean of values in [0, 1], such as error rates; the interval stays inside.

        Raises:
            InvalidConfig: no values.
        """
        return cls.student_t(values, confidence, least=0.0, most=1.0)

    @property
    def varies(self) -> bool:
        """Whether the values differ, so that the interval is Student's."""
        return self.std > 0

    def measurement(self, unit: str = "1", *, least: float = -math.inf, most: float = math.inf) -> Measurement:
        """Return it as a measurement; the interval is cut to the quantity's own range."""
        return Measurement(self.value, max(self.low, least), min(self.high, most), self.n, unit)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Any number with a two-sided interval, ``low <= value <= high``, from ``n`` values."""

    value: float
    low: float
    high: float
    n: int

    @property
    def width(self) -> float:
        """Length of the interval."""
        return self.high - self.low

    def measurement(self, unit: str = "1") -> Measurement:
        """Return it as a measurement of a record."""
        return Measurement(self.value, self.low, self.high, self.n, unit)


def wilson_of_mean(mean: float, n: int, confidence: float = 0.95) -> Estimate:
    """Return Wilson's interval around the mean of ``n`` independent values in [0, 1].

    The variance of such values is at most that of coins with the same mean, which is what the interval assumes.

    Raises:
        InvalidConfig: no values, or a mean outside 0..1.
    """
    check_confidence(confidence)
    if n < 1 or not 0 <= mean <= 1:
        raise InvalidConfig(f"{mean} is no mean of {n} values in [0, 1]")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(mean, low if mean > 0 else 0.0, high if mean < 1 else 1.0, n)


def quantile(
    values: Sequence[float], q: float, confidence: float = 0.95, *, least: float = 0.0, most: float = 1.0
) -> Estimate:
    """Return the ``q`` quantile with the distribution-free interval between two order statistics.

    The value interpolates linearly (Hyndman & Fan's definition 7). The interval runs from the k-th to the l-th
    smallest value, with k and l from Binomial(n, q) (Thompson, 1936); where no value reaches far enough, it runs to
    the end of the range.

    Args:
        values: independent draws in [``least``, ``most``]; infinities are allowed.
        q: 0..1.
        confidence: of the interval, at least.
        least: end of the quantity's range; ``most`` likewise.

    Raises:
        InvalidConfig: no values, or ``q`` outside 0..1.
    """
    check_confidence(confidence)
    if not values or not 0 <= q <= 1:
        raise InvalidConfig(f"there is no quantile {q} of {len(values)} values")
    ordered, n, tail = sorted(values), len(values), (1 - confidence) / 2
    place = q * (n - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    # two infinities have no difference, and nothing lies between a value and itself
    value = below if below == above else below + (place - math.floor(place)) * (above - below)
    # P(fewer than k values lie below the quantile) <= tail, and as much on the other side
    k = int(stats.binom.ppf(tail, n, q))
    j = int(stats.binom.ppf(1 - tail, n, q)) + 1
    low, high = ordered[k - 1] if k >= 1 else least, ordered[j - 1] if j <= n else most
    return Estimate(value, min(low, value), max(high, value), n)


def worst_mean(values: Sequence[float], alpha: float) -> float:
    """Return the mean of the worst (largest) share ``alpha`` of ``values``: CVaR (Rockafellar & Uryasev, 2000).

    A value that straddles the share counts with the part inside it, so ``alpha=1`` is the mean and ``alpha <= 1/n``
    the maximum.

    Raises:
        InvalidConfig: no values, or ``alpha`` outside (0, 1].
    """
    if not values or not 0 < alpha <= 1:
        raise InvalidConfig(f"the worst share lies between 0 and 1, not {alpha}", hint="0.1 is the worst tenth")
    ordered = sorted(values, reverse=True)
    share = max(1.0, alpha * len(ordered))
    whole = math.floor(share)
    rest = (share - whole) * ordered[whole] if share > whole else 0.0
    return (math.fsum(ordered[:whole]) + rest) / share


def trials_for(margin: float, confidence: float = 0.95, *, p: float = 0.5, population: int | None = None) -> int:
    """Return how many trials estimate a proportion near ``p`` to within plus or minus ``margin``.

    Leveugle et al. (DATE 2009), with finite-population correction: n = N / (1 + e^2 (N-1) / (t^2 p (1-p))). The
    quantile t is exact; tables made with t = 2.576 for 99 % ask for 16,590 where this asks for 16,588.

    Raises:
        InvalidConfig: a margin or ``p`` outside 0..1.
    """
    check_confidence(confidence)
    if not 0 < margin < 1 or not 0 < p < 1:
        raise InvalidConfig(f"a margin and a proportion lie between 0 and 1, not {margin} and {p}")
    unlimited = float(stats.norm.ppf(0.5 + confidence / 2)) ** 2 * p * (1 - p) / margin**2
    if population is None:
        return math.ceil(unlimited)
    return min(population, math.ceil(population / (1 + (population - 1) / unlimited)))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two paired arms fail equally often (McNemar, 1947)."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue)
