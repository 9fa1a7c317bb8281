"""What a campaign over chips found on a language model: perplexity, collapse, and what it says instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from holdfast.errors import InvalidConfig
from holdfast.execution.sequences import anytime_interval
from holdfast.execution.statistics import Estimate, MeanEstimate, Proportion, quantile, worst_mean


@dataclass(frozen=True)
class LanguageRobustness:
    """Perplexity and greedy text over chips.

    A chip *collapses* the model when its perplexity is not a finite number, or more than ``threshold`` times the clean
    one, or no better than guessing, which is the size of the vocabulary. The last matters where the clean perplexity is
    high: there a model of which nothing is left may still look close. Means of ratios are means of a heavy tail, and
    infinite as soon as one chip gives NaN: the median, the collapse rate and the mean of the chips that stand say more
    together than any mean of all.

    Attributes:
        clean: mean negative log-likelihood of a token without faults, in nats, over windows (Student's t interval).
        per_chip: the same on each chip; infinite where a logit is NaN or infinite.
        vocabulary: number of tokens.
        moved: of each chip, the share of all predictions whose most likely token is another than the clean one.
        diverged: of each chip and prompt, the first new token that differs from the clean ones, or None.
        distance: of each chip and prompt, how many insertions, deletions and substitutions of tokens lie between.
        new_tokens: how many tokens each prompt was continued by.
        nonfinite: of each chip, how many windows gave NaN or infinity.
        flips: of each chip, how many bits changed; None for a fault of each read.
        threshold: of a collapse.
        confidence: of all intervals.
    """

    clean: MeanEstimate
    per_chip: tuple[float, ...]
    vocabulary: int
    moved: tuple[float, ...]
    diverged: tuple[tuple[int | None, ...], ...]
    distance: tuple[tuple[int, ...], ...]
    new_tokens: int
    nonfinite: tuple[int, ...]
    flips: tuple[int | None, ...]
    threshold: float = 10.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require_threshold(self.threshold)

    @property
    def chips(self) -> int:
        """Number of chips."""
        return len(self.per_chip)

    @property
    def clean_perplexity(self) -> Estimate:
        """Perplexity without faults; the interval is over windows of text."""
        low, value, high = (math.exp(min(edge, 700.0)) for edge in (self.clean.low, self.clean.value, self.clean.high))
        return Estimate(value, low, high, self.clean.n)

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """Perplexity of each chip over the clean one; infinite beyond e**700."""
        logs = (value - self.clean.value for value in self.per_chip)
        return tuple(math.exp(log) if log < 700 else math.inf for log in logs)

    def is_collapsed(self, chip: int) -> bool:
        """Say whether one chip collapses the model."""
        guessing = math.log(self.vocabulary) - 1e-9  # equal logits give it up to rounding
        return self.ratios[chip] > self.threshold or self.per_chip[chip] >= guessing

    @cached_property
    def collapse(self) -> Proportion:
        """Share of chips that collapse the model, with Clopper and Pearson's interval."""
        count = sum(self.is_collapsed(chip) for chip in range(self.chips))
        return Proportion.clopper_pearson(count, self.chips, self.confidence)

    @property
    def median_ratio(self) -> Estimate:
        """Median over chips, with its distribution-free interval; may be infinite."""
        return quantile(self.ratios, 0.5, self.confidence, most=math.inf)

    @property
    def mean_ratio(self) -> float:
        """Mean over all chips; infinite when one is."""
        return sum(self.ratios) / self.chips

    @property
    def mean_ratio_standing(self) -> MeanEstimate | None:
        """Mean over the chips that do not collapse the model; None when all do."""
        standing = [ratio for chip, ratio in enumerate(self.ratios) if not self.is_collapsed(chip)]
        return MeanEstimate.student_t(standing, self.confidence) if standing else None

    def cvar_ratio(self, alpha: float = 0.1) -> float:
        """Return the mean ratio of the worst share ``alpha`` of chips; may be infinite."""
        return worst_mean(self.ratios, alpha)

    @property
    def predictions_moved(self) -> MeanEstimate:
        """Mean of ``moved``, with Student's t interval over chips."""
        return MeanEstimate.of_shares(self.moved, self.confidence)

    @property
    def changed_per_chip(self) -> tuple[float, ...]:
        """Share of prompts that each chip continues differently: silent data corruption of the text."""
        return tuple(sum(place is not None for place in chip) / len(chip) for chip in self.diverged)

    @property
    def changed(self) -> MeanEstimate:
        """Mean of ``changed_per_chip``, with Student's t interval over chips."""
        return MeanEstimate.of_shares(self.changed_per_chip, self.confidence)

    @property
    def changed_anytime(self) -> Estimate:
        """The same mean with an interval that assumes no normal law and holds whenever one stops."""
        return anytime_interval(self.changed_per_chip, self.confidence)

    @property
    def first_divergence(self) -> float | None:
        """Median place of the first token that differs, over all texts that do; None when none does."""
        places = [place for chip in self.diverged for place in chip if place is not None]
        return median(places) if places else None

    @property
    def edit_share(self) -> MeanEstimate:
        """Edit distance over the number of new tokens, mean of each chip, then mean and interval over chips."""
        shares = [sum(chip) / len(chip) / self.new_tokens for chip in self.distance]
        return MeanEstimate.of_shares(shares, self.confidence)


def require_threshold(threshold: float) -> None:
    """Raise :class:`InvalidConfig` unless a collapse is above the clean perplexity."""
    if not threshold > 1:
        raise InvalidConfig(f"a model collapses above its clean perplexity, not at {threshold} times", hint="10, or so")


def edit_distance(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how few insertions, deletions and substitutions turn one into the other (Levenshtein, 1966)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
