"""Two models on the same chips: what is common to both cancels, so small differences show with few chips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution.database import differing
from holdfast.execution.over_chips import RobustError
from holdfast.execution.sequences import anytime_interval
from holdfast.execution.statistics import Estimate, MeanEstimate, mcnemar


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipPairs:
    """Robust error of the second model minus that of the first.

    Attributes:
        difference: mean over chips, with Student's t interval of the pairs; where all pairs differ by the same
            amount, which no spread can be estimated from, with the interval of ``anytime``.
        anytime: the same mean with an interval that holds whenever one stops.
        over_images: mean over images with Student's t interval: what other images might give. It takes all chips
            of each model, so it is another mean than ``difference`` where one has more.
        t_test: two-sided p-value of "no difference" by the paired t test; NaN where it is not defined, since all
            pairs differ by the same amount.
        wilcoxon: by Wilcoxon's signed-rank test (1945), which assumes no normal law.
        sign: by the exact sign test; ``first_better`` and ``second_better`` are the chips it counts.
        correlation: between the errors of the two models over chips; NaN where one does not vary.
    """

    difference: MeanEstimate
    anytime: Estimate
    over_images: MeanEstimate
    t_test: float
    wilcoxon: float
    sign: float
    first_better: int
    second_better: int
    correlation: float

    @property
    def chips(self) -> int:
        """Number of pairs."""
        return self.difference.n


def pair_chips(first: RobustError, second: RobustError) -> ChipPairs:
    """Compare two robust errors chip by chip.

    When optional stopping left one of them with more chips, only those that both have are used, but for
    ``over_images``, which takes all of each.

    Raises:
        InvalidConfig: they answer different questions: another fault, seed, selection of sites or data.
    """
    _require_same(first, second)
    chips = min(first.chips, second.chips)
    a, b = np.array(first.per_chip[:chips]), np.array(second.per_chip[:chips])
    change, confidence = b - a, first.confidence
    better = int((change > 0).sum()), int((change < 0).sum())
    images = np.array(second.per_image) / second.chips - np.array(first.per_image) / first.chips
    varies = chips > 1 and a.std() > 0 and b.std() > 0
    return ChipPairs(
        difference=_mean(change, confidence),
        anytime=_anytime(change, confidence),
        over_images=_mean(images, confidence),
        t_test=_t_test(change),
        wilcoxon=float(stats.wilcoxon(change).pvalue) if change.any() else 1.0,
        sign=mcnemar(*better),
        first_better=better[0],
        second_better=better[1],
        correlation=float(np.corrcoef(a, b)[0, 1]) if varies else float("nan"),
    )


def _anytime(change: np.ndarray, confidence: float) -> Estimate:
    halves = anytime_interval((change + 1) / 2, confidence)  # from [-1, 1] to [0, 1]
    return Estimate(2 * halves.value - 1, 2 * halves.low - 1, 2 * halves.high - 1, len(change))


def _mean(change: np.ndarray, confidence: float) -> MeanEstimate:
    if len(change) < 2 or _varies(change):
        return MeanEstimate.student_t(change.tolist(), confidence)
    bounds = _anytime(change, confidence)
    return MeanEstimate(bounds.value, bounds.low, bounds.high, len(change), 0.0)


def _t_test(change: np.ndarray) -> float:
    if not change.any():
        return 1.0
    return float(stats.ttest_1samp(change, 0.0).pvalue) if _varies(change) else float("nan")


def _varies(change: np.ndarray) -> bool:
    """Whether differences differ by more than the rounding of two error rates."""
    return bool(np.ptp(change) > 1e-12)


def _require_same(first: RobustError, second: RobustError) -> None:
    differ = differing(first.question, second.question)
    if differ or first.images != second.images:
        raise InvalidConfig(
            f"these robust errors were not measured on the same chips: they differ in {', '.join(differ) or 'images'}",
            hint="use one fault, one seed, one selection of sites and one dataset for both",
        )
