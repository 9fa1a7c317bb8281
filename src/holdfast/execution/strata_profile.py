"""An interval for a weighted sum of a few shares, each from its own trials: all of them at once, at every stop.

Each share p with k failures in n trials has the mixture martingale of Robbins (1970) with Jeffreys' prior as evidence
against it, B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) / (p^k (1 - p)^(n - k)). The product over independent shares is
evidence against all of them together; the interval is the range of the sum where that product stays below
1 / (1 - confidence). The extremes have a closed form up to one multiplier, which is bisected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, xlog1py, xlogy

from holdfast.execution.statistics import Proportion, check_confidence

_STEPS = 60


@dataclass(frozen=True, slots=True)
class Share:
    """``failed`` of ``n`` trials in a part of the population of probability ``mass``.

    ``items`` is its number of cases where that is finite. ``likely`` is what stands in for the share of a part without
    a trial: in the value only, as its interval is all of 0 .. 1. ``weighted`` is the share by the weights of the
    trials, again in the value only: where failures decide what is tried next, ``failed`` of ``n`` is biased, though
    the interval is not.
    """

    mass: float
    failed: int
    n: int
    items: float = math.inf
    likely: float | None = None
    weighted: float | None = None

    @property
    def value(self) -> float | None:
        """The share seen, or else the likely one."""
        if not self.n:
            return self.likely
        return self.failed / self.n if self.weighted is None or self.n >= self.items else self.weighted


def profile_interval(shares: Sequence[Share], confidence: float = 0.95) -> Proportion:
    """Return the share of failures over all parts, weighted by their masses, which are scaled to sum to one.

    Parts without a trial may be anything; parts that were tried to the last case are known.
    """
    check_confidence(confidence)
    total = math.fsum(share.mass for share in shares)
    told = [(share.mass, share.value) for share in shares if share.value is not None]
    n, failed = sum(share.n for share in shares), sum(share.failed for share in shares)
    if not n:
        return Proportion(0.0, 0.0, 1.0, 0, 0)
    known = math.fsum(share.mass / total * share.failed / share.n for share in shares if share.n >= share.items)
    open_ = [share for share in shares if share.n < share.items]
    value = math.fsum(mass * part for mass, part in told) / math.fsum(mass for mass, _ in told)
    mass = np.array([share.mass / total for share in open_])
    k = np.array([share.failed for share in open_], dtype=float)
    count = np.array([share.n for share in open_], dtype=float)
    limit = -math.log1p(-confidence)
    high = known + _most(mass, k, count, limit)
    low = known + float(mass.sum()) - _most(mass, count - k, count, limit)
    return Proportion(value, min(max(0.0, low), value), max(min(1.0, high), value), n, failed)


def _most(mass: np.ndarray, k: np.ndarray, n: np.ndarray, limit: float) -> float:
    """Return the largest sum of mass * p whose evidence stays below ``limit``."""
    if not len(mass):
        return 0.0
    least, most = -60.0, 60.0  # log of the multiplier
    for _ in range(_STEPS):
        middle = (least + most) / 2
        inside = _evidence(_shares(mass * math.exp(middle), k, n), k, n) <= limit
        least, most = (middle, most) if inside else (least, middle)
    return float((mass * _shares(mass * math.exp(most), k, n)).sum())


def _shares(pull: np.ndarray, k: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return p with n p - k = pull p (1 - p): where pulling up balances the evidence; the stable root of two forms."""
    root = np.sqrt((n - pull) ** 2 + 4 * pull * k)
    high = (pull - n + root) / (2 * pull)
    low = 2 * k / np.where(n - pull + root > 0, n - pull + root, 1.0)
    return np.asarray(np.clip(np.where(n > pull, low, high), 0.0, 1.0))


def _evidence(p: np.ndarray, k: np.ndarray, n: np.ndarray) -> float:
    mixed = betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)
    return float((mixed - xlogy(k, p) - xlog1py(n - k, -p)).sum())
