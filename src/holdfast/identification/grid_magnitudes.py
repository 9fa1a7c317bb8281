"""How large top logits are: one law for a response, because its positions share the model's scale.

Where the gaps of a position leave the magnitude open, a format is judged by which magnitudes it needs. Taken position
by position, eight times the same unlikely magnitude would count as eight surprises, and eight times the same small
preference as certainty. It is one: given the law of a response's magnitudes, its positions are independent; the law's
centre, how far positions scatter about it, and the sign are integrated out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy.special import logsumexp

from holdfast.identification.grid_formats import Values

_BINADES = np.arange(-3, 8)  # of top logits: 2**-3 to 2**8
# log2 of a response's magnitudes: centre, deviation below and above it. 8 to 32 is common in language models, small
# ones have less, and hardly any have much more
_USUAL = (4.0, 0.9, 0.5)
_OTHER = (3.5, 2.0, 2.0)  # of heads of any kind
UNUSUAL = 0.002  # share of the latter
_SCATTERS = (0.04, 0.08, 0.16, 0.32, 0.64, 1.28)  # of log2 about the centre, equally likely
_ALIKE = 0.1  # design effect: no law of ours is quite right, so further positions err together by this much
_STRAY, _WIDE = 0.1, 0.64  # share of positions far from the centre, and how far: one outlier must not decide
_SIGNS = ((0.94, 1.0), (0.05, 0.0), (0.01, 0.5))  # share of responses, and of their top logits above zero
_POINTS = 128, 16  # per binade, above and below zero


@dataclass(frozen=True)
class Magnitudes:
    """Points where a top logit may lie, and laws of what a response's top logits are.

    Below a positive top logit a grid only gets finer, so the low bits of the top cannot matter: 128 points per binade
    do, and fewer for a coarser format.

    Attributes:
        significant: bits of the format, the leading one included.
        unusual: share of heads whose logits are of any size.
    """

    significant: int
    unusual: float = UNUSUAL

    @cached_property
    def tops(self) -> Values:
        """The points, above zero and below."""
        return np.concatenate([sign * self._side(count) for sign, count in zip((1.0, -1.0), self._counts, strict=True)])

    @property
    def _counts(self) -> tuple[int, int]:
        most = 2 ** (self.significant - 1)
        return min(_POINTS[0], most), min(_POINTS[1], most)

    @staticmethod
    def _side(count: int) -> Values:
        fractions = 1 + np.arange(count) / count
        return np.asarray((fractions[None, :] * 2.0 ** _BINADES[:, None]).reshape(-1))

    @cached_property
    def _laws(self) -> tuple[Values, Values]:
        """Weights (laws, tops) above zero, and below, that sum to one under each law."""
        above, below = (_side_laws(self._side(count)) for count in self._counts)
        return above, below

    @cached_property
    def alone(self) -> Values:
        """Log weights (tops,) for a single position."""
        prior, share = np.exp(_centre_prior(self.unusual)), sum(weight * above for weight, above in _SIGNS)
        above, below = self._laws
        return np.asarray(np.log(np.concatenate((share * (prior @ above), (1 - share) * (prior @ below))) + 1e-300))

    def together(self, positions: Sequence[Values]) -> float:
        """Return the log likelihood of a response from those of its positions (tops,), the law integrated out."""
        scores = np.stack(positions, axis=1)
        highest = scores.max(axis=0)
        shares, (above, below) = np.exp(scores - highest), self._laws
        up, down = above @ shares[: above.shape[1]], below @ shares[above.shape[1] :]
        alike = 1 + _ALIKE * (len(positions) - 1)
        laws = [np.log(weight) + np.log(part * up + (1 - part) * down + 1e-300).sum(axis=1) for weight, part in _SIGNS]
        return float(logsumexp(_centre_prior(self.unusual) + np.stack(laws) / alike) + highest.sum() / alike)


def _places() -> list[tuple[float, Values]]:
    """Return each scatter with centres at steps of it."""
    low, high = float(_BINADES[0]), float(_BINADES[-1] + 1)
    return [(scatter, np.arange(low, high, min(1.5 * scatter, 0.25))) for scatter in _SCATTERS]


@cache
def _centre_prior(unusual: float) -> Values:
    parts = []
    for _, centres in _places():
        kinds = np.log1p(-unusual) + _normal(centres, *_USUAL), np.log(unusual) + _normal(centres, *_OTHER)
        parts.append(np.logaddexp(*kinds) - np.log(len(_SCATTERS)))
    return np.concatenate(parts)


def _side_laws(tops: Values) -> Values:
    """Return weights (laws, tops), normal in log2 of the magnitude; points of a binade lie denser at its upper end."""
    place = np.log2(tops)
    finer = (place - np.floor(place)) * np.log(2)
    parts = []
    for scatter, centres in _places():
        apart = place[None, :] - centres[:, None]
        near, far = (np.exp(-0.5 * (apart / width) ** 2 - finer) for width in (scatter, max(4 * scatter, _WIDE)))
        parts.append((1 - _STRAY) * near / near.sum(1, keepdims=True) + _STRAY * far / far.sum(1, keepdims=True))
    return np.concatenate(parts)


def _normal(places: Values, centre: float, below: float, above: float) -> Values:
    """Return log weights on ``places`` of a normal law with a deviation on either side, which sum to one."""
    weights = -0.5 * ((places - centre) / np.where(places < centre, below, above)) ** 2
    return np.asarray(weights - logsumexp(weights))
