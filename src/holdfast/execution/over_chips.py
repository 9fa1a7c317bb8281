"""What a campaign over chips found: test error after bit errors, chip by chip and image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from holdfast.execution.statistics import Estimate, MeanEstimate, Proportion, quantile, wilson_of_mean, worst_mean


def _percent(found: MeanEstimate | Proportion) -> str:
    return f"{found.value:.2%} [{found.low:.2%}, {found.high:.2%}]"


@dataclass(frozen=True, repr=False)
class RobustError:
    """Test error over chips, in both definitions.

    Attributes:
        clean: error without faults, over the test images (binomial interval).
        per_chip: error of each chip, images that are wrong *after* the bit errors (Stutz et al., their RErr).
        per_chip_or_clean: the same counting an image wrong if it is wrong clean or faulty, as their released code does.
        mean: mean of ``per_chip`` with Student's t interval over chips; meant for a number of chips fixed beforehand.
        anytime: the same mean with an interval that holds whenever one stops, and without assuming a normal law.
        per_image: on how many chips each image is wrong.
        nonfinite: of each chip, how many images gave NaN or infinity.
        flips: of each chip, how many bits changed; None for a fault that is drawn anew at each read.
        confidence: of all intervals.
        question: fault, sites, seed and data; results that share it were measured on the same chips.
    """

    clean: Proportion
    per_chip: tuple[float, ...]
    per_chip_or_clean: tuple[float, ...]
    mean: MeanEstimate
    anytime: Estimate
    per_image: tuple[int, ...]
    nonfinite: tuple[int, ...]
    flips: tuple[int | None, ...]
    confidence: float = 0.95
    question: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in one line what was found; every chip and image is in the attributes."""
        chips = f"{len(self.per_chip)} chip{'s' if len(self.per_chip) != 1 else ''}"
        return f"<{type(self).__name__} on {chips}: mean {_percent(self.mean)}; clean {_percent(self.clean)}>"

    @classmethod
    def of(
        cls,
        clean: np.ndarray,
        wrong: np.ndarray,
        *,
        anytime: Estimate,
        nonfinite: Sequence[int],
        flips: Sequence[int | None],
        confidence: float = 0.95,
        question: Mapping[str, Any] | None = None,
    ) -> RobustError:
        """Summarise which images are wrong: ``clean`` bool (images,), ``wrong`` bool (chips, images)."""
        rates = [float(value) for value in wrong.mean(1)]
        return cls(
            clean=Proportion.wilson(int(clean.sum()), len(clean), confidence),
            per_chip=tuple(rates),
            per_chip_or_clean=tuple(float(value) for value in (wrong | clean).mean(1)),
            mean=MeanEstimate.of_shares(rates, confidence),
            anytime=anytime,
            per_image=tuple(wrong.sum(0).tolist()),
            nonfinite=tuple(nonfinite),
            flips=tuple(flips),
            confidence=confidence,
            question=question or {},
        )

    @property
    def chips(self) -> int:
        """Number of chips."""
        return len(self.per_chip)

    @property
    def random(self) -> bool:
        """Whether the law that drew the chips has any randomness; without it, there is only one chip."""
        return bool(self.question.get("random", True))

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.per_image)

    @property
    def worst(self) -> float:
        """Error of the worst chip."""
        return max(self.per_chip)

    @property
    def worst_chip(self) -> int:
        """Number k of the worst chip, the first of equals; inject it again under ``derive(seed, "chip", k)``."""
        return self.per_chip.index(self.worst)

    @property
    def nonfinite_chips(self) -> int:
        """Number of chips on which any image gave NaN or infinity."""
        return sum(count > 0 for count in self.nonfinite)

    @cached_property
    def mean_or_clean(self) -> MeanEstimate:
        """Mean of ``per_chip_or_clean`` with Student's t interval."""
        return MeanEstimate.of_shares(self.per_chip_or_clean, self.confidence)

    @cached_property
    def test_set(self) -> Estimate:
        """The mean with the binomial interval of the test set: what other images of the same kind might give.

        An image is wrong on some chips and right on others, so its share varies less than a coin of that mean: the
        interval is never too narrow on that account. It takes the chips as given.
        """
        return wilson_of_mean(self.mean.value, self.images, self.confidence)

    def quantile(self, q: float) -> Estimate:
        """Return the error that the share ``q`` of chips stays below, with a distribution-free interval."""
        return quantile(self.per_chip, q, self.confidence)

    def cvar(self, alpha: float = 0.1) -> float:
        """Return the mean error of the worst share ``alpha`` of chips."""
        return worst_mean(self.per_chip, alpha)
