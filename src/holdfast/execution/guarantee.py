"""What robust error on some images and some chips says about all images and all chips: the published bound, and others.

The published one (Stutz et al., MLSys 2021, proposition 1): with probability at least 1 - delta over n images and l
patterns, both i.i.d., the true error is below the measured one plus sqrt(ln((n+1)/delta)/n) (sqrt(l)+sqrt(n))/sqrt(l).
It takes a union over the images that nothing needs. Split the deviation instead into that of the patterns, given the
test set, and that of the images, and spend delta/2 on each: both are means of independent values in [0, 1], so
Hoeffding's inequality (1963) gives sqrt(ln(2/delta)/2l) + sqrt(ln(2/delta)/2n).

Either is about worst cases: with the 50 patterns that are customary the published slack is 56 % and the other 24.6 %,
so both say little, and the published one nothing, about a model whose error is 7 %. What does say something at 50
chips adapts to what was seen: a confidence sequence for the chips and the relative-entropy bound for the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq

from holdfast.errors import InvalidConfig
from holdfast.execution.over_chips import RobustError
from holdfast.execution.sequences import anytime_interval


def published_slack(images: int, patterns: int, delta: float = 0.01) -> float:
    """Return the slack of the published bound; ``delta`` is the chance that it fails (the paper's text has 1 - delta).

    Raises:
        InvalidConfig: no images or patterns, or ``delta`` outside 0..1.
    """
    _check(images, patterns, delta)
    root = math.sqrt(math.log((images + 1) / delta) / images)
    return root * (math.sqrt(patterns) + math.sqrt(images)) / math.sqrt(patterns)


def split_slack(images: int, patterns: int, delta: float = 0.01) -> float:
    """Return the slack of Hoeffding's inequality spent half on the patterns and half on the images.

    Raises:
        InvalidConfig: no images or patterns, or ``delta`` outside 0..1.
    """
    _check(images, patterns, delta)
    log = math.log(2 / delta)
    return math.sqrt(log / (2 * patterns)) + math.sqrt(log / (2 * images))


def mean_above(mean: float, n: int, delta: float) -> float:
    """Return what the true mean stays below, up to a chance ``delta``, when ``n`` values in [0, 1] average ``mean``.

    The largest q with n KL(mean, q) <= ln(1/delta) (Chernoff, 1952; Hoeffding, 1963, theorem 1): never wider than
    Hoeffding's simpler form, and much narrower near 0.

    Raises:
        InvalidConfig: a mean outside 0..1, no values, or ``delta`` outside 0..1.
    """
    _check(n, 1, delta)
    if not 0 <= mean <= 1:
        raise InvalidConfig(f"{mean} is no mean of values in [0, 1]")
    limit = math.log(1 / delta) / n
    if mean == 1.0:
        return 1.0
    if mean == 0.0:
        return -math.expm1(-limit)
    end = 1 - 1e-15
    if _entropy(mean, end) <= limit:
        return 1.0
    return float(brentq(lambda q: _entropy(mean, q) - limit, mean, end))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """Upper bounds of the true robust error, each with probability at least 1 - ``delta``.

    Attributes:
        measured: mean robust error over the chips and images at hand.
        guessing: error of a guess, 1 - 1/classes; a bound that reaches it says nothing.
        published, split, adaptive: the bounds; only ``adaptive`` also holds when the number of chips was not fixed
            beforehand.
    """

    measured: float
    images: int
    chips: int
    delta: float
    guessing: float
    published: float
    split: float
    adaptive: float

    def verdict(self, name: str) -> str:
        """Say what one bound is worth: ``vacuous``, ``weak`` (more slack than error) or ``informative``."""
        bound: float = getattr(self, name)
        if bound >= min(1.0, self.guessing):
            return "vacuous"
        return "weak" if bound - self.measured > self.measured else "informative"

    def sentences(self) -> list[str]:
        """Return one sentence per bound, for people."""
        return [
            f"{name}: with probability {1 - self.delta:.4g} the true robust error is below {getattr(self, name):.2%} "
            f"(measured {self.measured:.2%} on {self.images} images and {self.chips} chips): {self.verdict(name)}"
            for name in ("published", "split", "adaptive")
        ]


def guarantee(error: RobustError, delta: float = 0.01) -> Guarantee:
    """Return all three bounds for a measured robust error.

    They take the images as independent draws of the ones to come, and chips as independent draws of their law.

    Raises:
        InvalidConfig: ``delta`` outside 0..1, or chips that were not drawn: there are no others to bound.
    """
    if not error.random:
        raise InvalidConfig(
            "a law without randomness has one chip, and nothing is to be guaranteed over chips",
            hint="test_set is its interval over images",
        )
    images, chips, mean = error.images, error.chips, error.mean.value
    published = mean + published_slack(images, chips, delta)
    split = mean + split_slack(images, chips, delta)
    # the interval fails on either side with delta/2, and only its upper end is used
    given_images = anytime_interval(error.per_chip, 1 - delta).high
    return Guarantee(
        measured=mean,
        images=images,
        chips=chips,
        delta=delta,
        guessing=1 - 1 / classes if (classes := error.question.get("classes")) else 1.0,
        published=min(1.0, published),
        split=min(1.0, split),
        adaptive=mean_above(given_images, images, delta / 2),
    )


def _entropy(p: float, q: float) -> float:
    """Return KL(Bernoulli(p), Bernoulli(q)) in nats, for p and q strictly inside 0..1."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def _check(images: int, patterns: int, delta: float) -> None:
    if images < 1 or patterns < 1:
        raise InvalidConfig(f"a bound takes at least one image and one pattern, not {images} and {patterns}")
    if not 0 < delta < 1:
        raise InvalidConfig(f"a chance of failure lies between 0 and 1, not {delta}", hint="0.01 is one in a hundred")
