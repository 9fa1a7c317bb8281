"""Confidence sequences: intervals for the mean of bounded values that hold at every sample size at once.

A fixed-size interval is wrong once its data decide when to stop. These two are not: with probability ``confidence``
the mean lies inside *all* intervals of the run, so looking after every chip and stopping at will costs nothing.
Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (J. R. Stat. Soc. B, 2024):
theorem 2 (predictable plug-in empirical Bernstein) and theorem 3 (hedged capital). Their symbols are used below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.execution.statistics import Estimate, check_confidence

_CAP = 0.5  # c: the largest share of the capital that is ever at stake
_STEPS = 40  # bisections; the remaining width, 1e-12, is given to the interval


class ConfidenceSequence(Protocol):
    """Takes values in [0, 1] one by one and always knows an interval for their mean."""

    def add(self, value: float) -> Estimate:
        """Take one value and return the interval so far."""
        ...

    @property
    def estimate(self) -> Estimate:
        """Mean of the values so far, and the interval; [0, 1] before the first."""
        ...


class _Bets:
    """Predictable bets: what is staked on value t depends on the values before it only."""

    def __init__(self, alpha: float) -> None:
        self._log = math.log(2 / alpha)
        self.n, self._sum, self._squares = 0, 0.0, 0.0

    @property
    def centre(self) -> float:
        """The regularised mean of the values so far."""
        return (0.5 + self._sum) / (self.n + 1)

    def stake(self) -> float:
        """Return lambda for the next value, before any cap."""
        t, variance = self.n + 1, (0.25 + self._squares) / (self.n + 1)
        return math.sqrt(2 * self._log / (variance * t * math.log(1 + t)))

    def take(self, value: float) -> None:
        """Learn one value."""
        self.n, self._sum = self.n + 1, self._sum + value
        self._squares += (value - self.centre) ** 2

    def mean(self) -> float:
        """Return the plain mean."""
        return self._sum / self.n if self.n else 0.5


class EmpiricalBernsteinSequence:
    """Closed form, constant cost per value: the weighted mean plus or minus an empirical-Bernstein radius."""

    def __init__(self, confidence: float = 0.95) -> None:
        check_confidence(confidence)
        self._alpha, self._low, self._high = 1 - confidence, 0.0, 1.0
        self._bets = _Bets(self._alpha)
        self._stakes, self._weighted, self._spread = 0.0, 0.0, 0.0

    def add(self, value: float) -> Estimate:
        """Take one value in [0, 1] and return the interval so far.

        Raises:
            InvalidConfig: a value outside [0, 1].
        """
        value = _bounded(value)
        stake = min(self._bets.stake(), _CAP)
        self._stakes += stake
        self._weighted += stake * value
        # v_t psi_E(lambda_t) = 4 (x - centre)^2 * (-log(1 - lambda) - lambda) / 4
        self._spread += (value - self._bets.centre) ** 2 * (-math.log1p(-stake) - stake)
        self._bets.take(value)
        centre = self._weighted / self._stakes
        radius = (math.log(2 / self._alpha) + self._spread) / self._stakes
        self._low, self._high = _narrowed(self._low, self._high, centre - radius, centre + radius)
        return self.estimate

    @property
    def estimate(self) -> Estimate:
        """Mean of the values so far, and the interval; [0, 1] before the first."""
        return _around(self._bets.mean(), self._low, self._high, self._bets.n)


class BettingSequence:
    """Hedged capital: a mean is ruled out once betting against it would have multiplied the money by 1/alpha.

    Narrower than :class:`EmpiricalBernsteinSequence`, at a cost per value that grows with their number.
    """

    def __init__(self, confidence: float = 0.95) -> None:
        check_confidence(confidence)
        self._alpha, self._low, self._high = 1 - confidence, 0.0, 1.0
        self._bets = _Bets(self._alpha)
        self._values, self._stakes = np.empty(16), np.empty(16)

    def add(self, value: float) -> Estimate:
        """Take one value in [0, 1] and return the interval so far.

        Raises:
            InvalidConfig: a value outside [0, 1].
        """
        value = _bounded(value)
        n = self._bets.n
        if n == len(self._values):
            self._values, self._stakes = np.resize(self._values, 2 * n), np.resize(self._stakes, 2 * n)
        self._values[n], self._stakes[n] = value, self._bets.stake()
        self._bets.take(value)
        limit = math.log(2 / self._alpha)  # each side bets half of the money
        low = _edge(lambda m: self.capital(m)[0] >= limit, self._low, self._high)
        high = _edge(lambda m: self.capital(m)[1] >= limit, self._high, self._low)
        self._low, self._high = _narrowed(self._low, self._high, low, high)
        return self.estimate

    def capital(self, m: float) -> tuple[float, float]:
        """Return the log capital of betting that the mean is above ``m``, and below; falls and rises in ``m``."""
        values, stakes = self._values[: self._bets.n], self._stakes[: self._bets.n]
        up = np.minimum(stakes, _CAP / max(m, 1e-300))
        down = np.minimum(stakes, _CAP / max(1 - m, 1e-300))
        return float(np.log1p(up * (values - m)).sum()), float(np.log1p(-down * (values - m)).sum())

    @property
    def estimate(self) -> Estimate:
        """Mean of the values so far, and the interval; [0, 1] before the first."""
        return _around(self._bets.mean(), self._low, self._high, self._bets.n)


SEQUENCES: dict[str, Callable[[float], ConfidenceSequence]] = {
    "betting": BettingSequence,
    "empirical-bernstein": EmpiricalBernsteinSequence,
}


def sequence_named(method: str, confidence: float = 0.95) -> ConfidenceSequence:
    """Return an empty ``betting`` or ``empirical-bernstein`` sequence.

    Raises:
        UnknownName: another method.
    """
    if method not in SEQUENCES:
        raise unknown("confidence sequence", method, SEQUENCES)
    return SEQUENCES[method](confidence)


def anytime_interval(values: Iterable[float], confidence: float = 0.95, method: str = "betting") -> Estimate:
    """Return the interval that a confidence sequence has reached after ``values``, each in [0, 1]."""
    sequence = sequence_named(method, confidence)
    for value in values:
        sequence.add(value)
    return sequence.estimate


def _bounded(value: float) -> float:
    if not 0 <= value <= 1:
        raise InvalidConfig(f"a confidence sequence takes values in [0, 1], not {value}", hint="rescale them")
    return float(value)


def _edge(ruled_out: Callable[[float], bool], inside: float, other: float) -> float:
    """Return how far ``ruled_out`` reaches from the end ``inside`` towards ``other``, never too far."""
    if not ruled_out(inside):
        return inside
    good, bad = inside, other
    for _ in range(_STEPS):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if ruled_out(middle) else (good, middle)
    return good


def _narrowed(low: float, high: float, new_low: float, new_high: float) -> tuple[float, float]:
    """Intersect; a run that rules out every mean is one of the ``alpha`` that may fail, and keeps what it had."""
    least, most = max(low, new_low), min(high, new_high)
    return (least, most) if least <= most else (low, high)


def _around(mean: float, low: float, high: float, n: int) -> Estimate:
    return Estimate(mean, min(low, mean), max(high, mean), n)
