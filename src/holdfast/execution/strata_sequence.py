"""A confidence sequence for a total over strata: valid at every stop, and as narrow as the allocation deserves.

Round by round every stratum gives some values; the sequence bounds the sum of the strata's means. Against each value
x of stratum h it bets at a predictable guess g of its mean, and pays for the guess by the tangent of the exponential:
with stakes b = theta / n_h (n_h values in the round), and because 1 + u <= exp(u),

    E exp(b g + log(1 + b (x - g)) - b E[x])  <=  1        and      E exp(b E[x] - b g + log(1 - b (x - g)))  <=  1.

The products over all values are supermartingales whose only unknown is theta times the sum of the means, so Ville's
inequality bounds that sum for all rounds at once, whatever the allocation learned from the rounds before. No price is
paid per stratum, and one that never fails costs nothing but its share of the stake. Bets as in Waudby-Smith & Ramdas
(J. R. Stat. Soc. B, 2024); without replacement the mean of what is left is bet on, as in their "Confidence sequences
for sampling without replacement" (NeurIPS 2020).

The value is not the sum of the strata's pooled means: where the next trials go depends on what failed, so a stratum
that happens to show no failure is hardly looked at again and stays too low, while one that shows many is corrected. On
rare failures that bias is 10 to 20 %, and more trials do not cure it. Given the rounds before it, though, every round
is an honest sample of its own, so the rounds are averaged, with weights that no outcome has a say in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.statistics import Estimate, check_confidence

_CAP = 0.75  # of the capital, the most that one value may lose
_WEIGHT = 8.0  # values that the guess from the kin counts as, beside a stratum's own


@dataclass(frozen=True, slots=True)
class Layer:
    """One stratum of a total: ``items`` values in [0, ``most``], drawn without replacement; None never ends.

    Strata of one ``kin`` are guessed to be alike until they show otherwise.
    """

    items: int | None
    most: float
    kin: str = ""


class StratifiedSequence:
    """Takes rounds of values and always knows an interval for the sum of the strata's means.

    Args:
        layers: the strata.
        confidence: with which the sum lies inside all intervals of the run.
    """

    def __init__(self, layers: Sequence[Layer], confidence: float = 0.95) -> None:
        check_confidence(confidence)
        self._layers, self._limit = tuple(layers), math.log(2 / (1 - confidence))
        self._most = np.array([layer.most for layer in layers])
        self._items = np.array([math.inf if layer.items is None else layer.items for layer in layers])
        self.n, self._sum = np.zeros(len(layers), dtype=np.int64), np.zeros(len(layers))
        groups = list(dict.fromkeys(layer.kin for layer in layers))
        self._kin = np.array([[float(layer.kin == group) for layer in layers] for group in groups])
        self._up, self._down = _Side(), _Side()
        self._low, self._high, self._evidence = 0.0, float(self._most.sum()), 0.0
        self._rounds: list[tuple[float, np.ndarray, np.ndarray]] = []

    @property
    def exhausted(self) -> np.ndarray:
        """Which strata have given all they hold, bool, shape (strata,)."""
        return np.asarray(self.n >= self._items)

    def guesses(self) -> np.ndarray:
        """Return what the strata's next values are guessed to be on average, in units of ``most``."""
        share = np.divide(self._sum, self._most, out=np.zeros_like(self._sum), where=self._most > 0)
        kin = self._kin
        pooled = ((kin @ share + 0.5 / len(kin)) / (kin @ self.n + 1 / len(kin))) @ kin
        unseen = 0.5 / len(
            self.n
        )  # half a failure in all: no run of zeros makes the guess, and with it the spread, zero
        return np.asarray((share + _WEIGHT * pooled + unseen) / (self.n + _WEIGHT + 2 * unseen))

    def variance(self, counts: Sequence[int] | np.ndarray, deviations: np.ndarray | None = None) -> float:
        """Return the variance expected of a round of ``counts`` values, from what is known before it.

        Args:
            counts: values per stratum.
            deviations: standard deviations, shape (strata,); those of coins with the guessed means where None.
        """
        guess = self.guesses()
        spread = self._most * np.sqrt(guess * (1 - guess)) if deviations is None else deviations
        counts = np.asarray(counts)
        left = np.clip(1 - (self.n + counts / 2) / self._items, 0, 1)
        share = np.divide(spread**2, counts, out=np.zeros_like(spread), where=counts > 0)
        return float((share * left**2).sum())

    def add(self, values: Sequence[np.ndarray], pace: float) -> Estimate:
        """Take a round and return the interval so far.

        Args:
            values: of each stratum, in the order drawn; every stratum that has values left gives at least one.
            pace: the stake theta, decided before the round was seen; too large a stake is cut.

        Raises:
            InvalidConfig: a stratum gives nothing, more than it holds, or a value outside its range.
        """
        self._check(values)
        counts = np.array([len(x) for x in values])
        down, up = self._stakes(counts, pace)
        self._note(values, counts)
        guess = self.guesses()
        for h, x in enumerate(values):
            if len(x):
                self._bet(h, np.asarray(x, dtype=np.float64), float(guess[h]), down, up)
            else:  # all of it is known
                mean = self._sum[h] / self.n[h]
                self._down.known += down * mean
                self._up.known += up * mean
        self._down.stake += down
        self._up.stake += up
        return self._narrow()

    def _note(self, values: Sequence[np.ndarray], counts: np.ndarray) -> None:
        """Remember a round: how much it weighs, what a value of it counts in its own estimate, and their sums.

        A round's own estimate is what is known for certain before it, and its mean for the rest. Rounds weigh by size;
        late ones leave little open where all values will be known in the end, and so weigh more.
        """
        fresh = np.where(counts > 0, (1 - self.n / self._items) / np.maximum(counts, 1), 0.0)
        open_ = 1 - (float(self.n.sum()) + float(counts.sum()) / 2) / float(self._items.sum())
        sums = np.array([float(np.sum(x)) for x in values])
        self._rounds.append((float(counts.sum()) / open_**2, fresh, sums))

    def credits(self) -> list[np.ndarray]:
        """Return for each round what a value of each stratum counts in the estimate, floats, shape (strata,)."""
        if len(self._layers) == 1 or self.exhausted.all():  # nothing to allocate, or nothing left open
            return [1 / np.maximum(self.n, 1)] * len(self._rounds)
        total, later, found = sum(weight for weight, _, _ in self._rounds), np.zeros(len(self.n)), []
        for weight, fresh, _ in reversed(self._rounds):
            found.append(weight / total * fresh + later)
            later = later + weight / total / self._items  # what was seen is certain from then on
        return found[::-1]

    def _check(self, values: Sequence[np.ndarray]) -> None:
        for layer, n, done, x in zip(self._layers, self.n, self.exhausted, values, strict=True):
            if not len(x) and not done:
                raise InvalidConfig("every stratum gives at least one value in each round")
            if layer.items is not None and n + len(x) > layer.items:
                raise InvalidConfig(f"a stratum of {layer.items} values gave {n + len(x)}")
            if len(x) and not (np.min(x) >= 0 and np.max(x) <= layer.most * (1 + 1e-12)):
                raise InvalidConfig(f"a value of a stratum lies outside [0, {layer.most}]")

    def _stakes(self, counts: np.ndarray, pace: float) -> tuple[float, float]:
        """Return theta for the lower and the upper bound: as asked, or what the thinnest stratum can bear."""
        guess, active = self.guesses(), counts > 0
        if not active.any():
            return pace, pace
        room = counts[active] / self._most[active]
        low = float((room / guess[active]).min())
        high = float((room / (1 - guess[active])).min())
        return min(pace, _CAP * low), min(pace, _CAP * high)

    def _bet(self, h: int, x: np.ndarray, guess: float, down: float, up: float) -> None:
        before = np.arange(len(x))
        earlier = self._sum[h] + np.cumsum(x) - x
        seen = self.n[h] + before
        weight = _WEIGHT + 1 / len(self.n)
        own = (earlier - self._sum[h] + guess * self._most[h] * (self.n[h] + weight)) / (seen + weight)
        left = 1 - seen / self._items[h]
        gone = float((earlier / self._items[h]).mean())
        for side, stake, sign in ((self._down, down, 1.0), (self._up, up, -1.0)):
            b = stake / len(x) * left
            # any guess is valid; one that keeps the stake bearable is wise
            g = np.minimum(own, _CAP / b) if sign > 0 else np.maximum(own, self._most[h] - _CAP / b)
            side.gain += float((sign * b * g + np.log1p(sign * b * (x - g))).sum())
            side.known += stake * gone
        self._sum[h] += float(x.sum())
        self.n[h] += len(x)

    def _narrow(self) -> Estimate:
        if self._down.stake > 0:
            self._low = max(self._low, (self._down.gain + self._down.known - self._limit) / self._down.stake)
        if self._up.stake > 0:
            self._high = min(self._high, (self._limit - self._up.gain + self._up.known) / self._up.stake)
        if self.exhausted.all():
            self._low = self._high = self._mean()
        return self.estimate

    def evidence(self, total: float) -> float:
        """Return the log of the capital won against "the sum of the means is ``total``"."""
        down = self._down.gain + self._down.known - self._down.stake * total
        up = self._up.gain - self._up.known + self._up.stake * total
        return float(np.logaddexp(down, up)) - math.log(2)

    def _mean(self) -> float:
        parts = zip(self.credits(), self._rounds, strict=True)
        return math.fsum(float(credit @ sums) for credit, (_, _, sums) in parts)

    @property
    def estimate(self) -> Estimate:
        """Sum of the strata's means so far, and the interval."""
        value, n = self._mean(), int(self.n.sum())
        low, high = (self._low, self._high) if self._low <= self._high else (value, value)
        return Estimate(value, min(low, value), max(high, value), n)


@dataclass(slots=True)
class _Side:
    """What one of the two bounds has won so far, what it staked, and the part of the total that is known."""

    gain: float = 0.0
    stake: float = 0.0
    known: float = 0.0
