"""Planning while measuring: pilot, Neyman allocation, and a stop that the interval decides.

The pilot is allocated in proportion to the strata's masses. Every later round is allocated to where its trials narrow
the interval most: in proportion to mass times standard deviation (Neyman, 1934), and never so few in a stratum that
its rare failures could dominate the bound. The campaign stops when the interval, valid at every look, is as narrow as
asked; so looking after each round costs nothing, and there is no false precision where nothing failed yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from holdfast.execution.compare import Outcome
from holdfast.execution.planner_design import Design
from holdfast.execution.statistics import Estimate
from holdfast.execution.strata_sequence import StratifiedSequence
from holdfast.execution.trials import Row

MEASURES: Mapping[str, tuple[str, ...]] = {outcome.value: (outcome.value,) for outcome in Outcome} | {
    "critical-or-due": (Outcome.CRITICAL.value, Outcome.DUE.value)
}
_BEARABLE = 0.75  # of the capital may be lost by one failure in a stratum that had none


class Course:
    """Feeds on finished rounds, in order, and knows the estimate so far and what the next round should be.

    Args:
        design: of the campaign.
        of: outcome or measure to estimate; the one that is planned for unless given.
        confidence: of the interval; the design's unless given.
    """

    def __init__(self, design: Design, of: str | None = None, confidence: float | None = None) -> None:
        self.design, self.of = design, of or design.of
        self._wanted = frozenset(MEASURES[self.of])
        confidence = design.confidence if confidence is None else confidence
        self._limit = math.log(2 / (1 - confidence))
        self.sequence = StratifiedSequence(design.layers, confidence)
        self._information = 0.0
        self.trials, self._taken = 0, 0  # trials and rounds so far
        self._census = _Census(design)

    @property
    def estimate(self) -> Estimate:
        """The share so far, with its interval."""
        return self._census.estimate if self.design.exhaustive else self.sequence.estimate

    @property
    def expected(self) -> int:
        """Trials of the whole campaign, as far as can be told: what the last round suggests where a margin decides."""
        total = int(min(self.design.budget, self.design.cases))
        if self.design.margin is None or not self.trials:
            return total if self.design.margin is None else min(total, self.design.first)
        return min(total, math.ceil(float(self._need().sum())))

    @property
    def drawn(self) -> np.ndarray:
        """Trials of each stratum so far, int64, shape (strata,)."""
        return np.asarray(self._census.n if self.design.exhaustive else self.sequence.n)

    def take(self, rows: Iterable[Row]) -> Estimate:
        """Take the rows of the next round, in any order, and return the estimate so far."""
        values: list[list[float]] = [[] for _ in self.design.parts]
        for row in sorted(rows, key=lambda row: row.trial):
            values[self.design.place(row)].append(self.design.weight(row) if row.outcome in self._wanted else 0.0)
        counts = np.array([len(own) for own in values])
        self.trials, self._taken = self.trials + int(counts.sum()), self._taken + 1
        if self.design.exhaustive:
            return self._census.add(counts, np.array([math.fsum(own) for own in values]))
        return self.sequence.add([np.array(own) for own in values], self._pace(counts))

    def credits(self) -> list[np.ndarray]:
        """Return for each round what a failure in each stratum counts, times its weight, shape (strata,) each."""
        if self.design.exhaustive:
            return [1 / np.maximum(self.drawn, 1)] * self._taken
        return self.sequence.credits()

    def _pace(self, counts: np.ndarray) -> float:
        """Return the stake of a round: the half-width aimed at over the variance expected of the round."""
        variance = max(self.sequence.variance(counts), 1e-300)
        if self.of == self.design.of and self.design.margin is not None:
            return self.goal() / variance
        if self.design.margin is None:  # the end is known: aim at what all trials together can reach
            share = counts.sum() / min(self.design.budget, self.design.cases)
            return math.sqrt(2 * self._limit * share / variance)
        self._information += 1 / variance
        return math.sqrt(2 * self._limit / self._information) / variance

    def goal(self) -> float:
        """Return the half-width to aim at: the margin, but never less than what the budget can reach.

        A relative margin follows the share known so far; without one, the budget says what to aim at.
        """
        most, guess = np.array([layer.most for layer in self.design.layers]), self.sequence.guesses()
        spread = float((most * np.sqrt(guess * (1 - guess))).sum())
        budget = min(self.design.budget, self.design.cases)
        reachable = max(spread * math.sqrt(2 * self._limit / budget), self._limit / (_BEARABLE * budget))
        margin = self.design.margin or 0.0
        return max(reachable, margin * float((most * guess).sum()) if self.design.relative else margin)

    @property
    def stopped(self) -> str:
        """``margin reached``, ``every case tried`` or ``trials spent``; empty while the campaign is not over."""
        if self.trials >= self.design.cases:
            return "every case tried"
        design, found = self.design, self.estimate
        if design.margin is not None and self.trials and not design.exhaustive:
            reached = design.margin * (found.value if design.relative else 1.0)
            if found.width / 2 <= reached:
                return "margin reached"
        return "trials spent" if self.trials >= min(design.budget, design.cases) else ""

    def allocation(self) -> list[int]:
        """Return how many trials each stratum gets in the next round; nothing once the campaign is over."""
        if self.stopped:
            return [0] * len(self.design.parts)
        end = next(islice((end for end in self.design.ends() if end > self.trials), 1))
        sizes = [math.inf if part.items is None else part.items for part in self.design.parts]
        left = [size - int(n) for size, n in zip(sizes, self.drawn, strict=True)]
        if self.design.exhaustive:
            return _in_order(end - self.trials, left)
        return apportion(self._need(), end - self.trials, left)

    def _need(self) -> np.ndarray:
        """Return the trials that each stratum needs in all, up to a common factor."""
        most = np.array([layer.most for layer in self.design.layers])
        if not self.trials:
            return np.asarray([part.mass for part in self.design.parts])
        guess = self.sequence.guesses()
        spread = most * np.sqrt(guess * (1 - guess))
        width = self.goal()
        neyman = 2 * self._limit / width**2 * spread * spread.sum()
        return np.asarray(np.maximum(neyman, self._limit / (_BEARABLE * width) * most * (1 - guess)))


def apportion(weights: np.ndarray, total: int, left: Sequence[float]) -> list[int]:
    """Share ``total`` among strata in proportion to ``weights``, at least one each and at most what is ``left``.

    What a stratum cannot take goes to the others; largest remainders get the odd ones.
    """
    room = np.array(left, dtype=float)
    given = np.minimum(room, 1.0)
    while (rest := int(min(total, room.sum()) - given.sum())) > 0:
        open_ = given < room
        want = np.where(open_, np.maximum(weights, 1e-300), 0.0)
        share = np.minimum(want / want.sum() * rest, room - given)
        whole = np.floor(share)
        if not whole.any():
            whole[np.argsort(-share, kind="stable")[:rest]] = 1.0
        given = given + np.where(open_, whole, 0.0)
    return [int(count) for count in given]


def _in_order(total: int, left: Sequence[float]) -> list[int]:
    given = []
    for room in left:
        given.append(int(min(room, total)))
        total -= given[-1]
    return given


def rounds(design: Design, rows: Sequence[Row]) -> list[list[Row]]:
    """Return the complete rounds among ``rows``, which are sorted by trial number."""
    found: list[list[Row]] = []
    start = 0
    for end in design.ends():
        own = rows[start:end]
        if len(own) < end - start or own[-1].trial != end - 1:
            break
        found.append(list(own))
        start = end
    return found


class _Census:
    """All cases, one after the other; until the last one, anything may still happen in those that are left."""

    def __init__(self, design: Design) -> None:
        self._most = np.array([layer.most for layer in design.layers])
        self._items = np.array([part.items or 1 for part in design.parts], dtype=float)
        self.n, self._sum = np.zeros(len(design.parts), dtype=np.int64), np.zeros(len(design.parts))

    def add(self, counts: np.ndarray, sums: np.ndarray) -> Estimate:
        """Take the values of a round."""
        self.n, self._sum = self.n + counts, self._sum + sums
        return self.estimate

    @property
    def estimate(self) -> Estimate:
        """What is known for certain; the share of what was tried is the value."""
        low = float((self._sum / self._items).sum())
        high = low + float((self._most * (1 - self.n / self._items)).sum())
        tried = float((self._most * self.n / self._items).sum())
        return Estimate(min(high, low / tried) if tried else 0.0, low, high, int(self.n.sum()))
