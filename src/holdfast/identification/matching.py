"""The law of distances: how likely are these words from a known platform, and from one that nobody has seen.

A platform repeats its own bits, word for word; a word may be struck (share ``flaw``), and lands anywhere. A platform
without reference lies at some unknown distance from one that has: it shares a part of the words with it, and differs
in the others by a few units or by many. Both parts are integrated out. The shared part has a prior over orders
of magnitude, and over how far the words of one probe stand or fall together (beta-binomial); it moves towards what was
seen between the references themselves. The distances follow a Dirichlet-multinomial law. So a newcomer that
shares 97 % of its words with its nearest reference is *unknown*, and no threshold has to be tuned for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaln, gammaln, logsumexp
from torch import Tensor

from holdfast.numerics import bits

UNKNOWN = "unknown"
BINS = 66  # 0: bit-equal; b: 2**(b-1) .. 2**b - 1 steps apart; the last one: NaN on one side, or nothing to compare
MASKED = -1  # a word that is not compared
Bins = npt.NDArray[np.int64]  # (probes, words)

_APART = np.array([0.001, 0.003, 0.01, 0.03, 0.06, 0.12, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95, 0.99])
_TOGETHER = np.array([0.5, 5.0, 500.0])  # concentration: words of a probe nearly all alike, in part, independent
_COMMON = np.sqrt(_APART)[:, None] * np.ones(len(_TOGETHER))  # few stacks of ours are near to another: 52 to 96 % apart
_LEARNED = 8.0  # words that the bins seen between references weigh
_OPEN = 0.5  # references that the even prior over shares weighs


def distances(one: Tensor, other: Tensor, step: Tensor | None = None) -> Tensor:
    """Return how far apart words are, float64: 0 exactly where they are bit-equal, infinite where one is NaN.

    Args:
        one: float, shape (probes, words); ``other`` likewise.
        step: size of a unit for rounded words; units in the last place where None.
    """
    apart = bits.ulp_distance(one, other) if step is None else (one.double() - other.double()).abs() / step
    equal = bits.int_view(one) == bits.int_view(other)
    return torch.where(equal, 0.0, apart.nan_to_num(torch.inf, posinf=torch.inf).clamp(min=1))


def bins_of(apart: Tensor) -> Bins:
    """Return the bin of each distance: 0 for equal words, else 1 + floor(log2); NaN is not compared."""
    wide = apart.clamp(min=1, max=2.0 ** (BINS - 2))
    found = torch.where(apart > 0, 1 + wide.log2().floor(), torch.zeros_like(apart))
    return torch.where(apart.isnan(), float(MASKED), found).long().numpy()


@dataclass(frozen=True, slots=True)
class Nats:
    """A log likelihood in two parts: which words are equal, and how far apart the others are."""

    equality: float
    distance: float

    @property
    def total(self) -> float:
        """Log likelihood."""
        return self.equality + self.distance


class DistanceLaw:
    """What distances mean, learned from pairs of different references.

    Args:
        flaw: share of words that a platform does not repeat when compared with itself.
    """

    def __init__(self, flaw: float) -> None:
        self.flaw = flaw
        self._weights = _COMMON / _COMMON.sum()
        self._prior = np.full(BINS - 1, 2.0 / (BINS - 1))

    def fit(self, nearest: Sequence[Bins]) -> DistanceLaw:
        """Learn from each reference's distances to the one nearest to it."""
        seen = np.zeros(BINS - 1)
        votes = np.zeros_like(self._weights)
        for found in nearest:
            scores = np.log(self._weights) + self._shares(found)
            votes += np.exp(scores - logsumexp(scores))
            apart = found[found > 0]
            seen += np.bincount(apart - 1, minlength=BINS - 1) / max(len(apart), 1)
        count = len(nearest)
        self._weights = (_OPEN * self._weights + votes) / (_OPEN + count)
        self._prior = np.full(BINS - 1, 2.0 / (BINS - 1)) + _LEARNED * seen / max(count, 1)
        return self

    def same(self, found: Bins) -> Nats:
        """Return the log likelihood of distances to a reference if the platform is that one."""
        words = found[found != MASKED]
        apart = words[words > 0]
        equality = (len(words) - len(apart)) * math.log1p(-self.flaw) + len(apart) * math.log(self.flaw)
        return Nats(equality, -len(apart) * math.log(BINS - 1) - _volume(apart))

    def apart(self, found: Bins) -> Nats:
        """Return the log likelihood of distances to a reference if the platform is unknown, and near to that one."""
        equality = float(logsumexp(np.log(self._weights) + self._shares(found)))
        words = found[found > 0]
        counts, total = np.bincount(words - 1, minlength=BINS - 1), self._prior.sum()
        urn = (
            gammaln(total) - gammaln(total + len(words)) + (gammaln(self._prior + counts) - gammaln(self._prior)).sum()
        )
        return Nats(equality, float(urn) - _volume(words))

    def _shares(self, found: Bins) -> npt.NDArray[np.float64]:
        """Return ln P(which words are equal) for every share apart and concentration, shape (shares, concentrations).

        Probes with the same counts are scored once.
        """
        counts = np.stack([(found == 0).sum(axis=-1), (found > 0).sum(axis=-1)], axis=-1)
        kinds, times = np.unique(counts, axis=0, return_counts=True)
        equal, unequal = kinds[:, 0, None, None], kinds[:, 1, None, None]
        apart = _APART[:, None] * _TOGETHER
        kept = (1 - _APART)[:, None] * _TOGETHER
        terms = betaln(kept + equal, apart + unequal) - betaln(kept, apart)
        return np.asarray((times[:, None, None] * terms).sum(axis=0))


def _volume(words: Bins) -> float:
    """Return ln of the number of values that the bins of unequal words hold: a far bin holds many, each unlikely."""
    return float(words.sum()) * math.log(2)
