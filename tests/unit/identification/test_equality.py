"""Model equality: the test keeps its level, has the power that theory gives it, and is not fooled by unequal counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion
from holdfast.identification.equality import hamming_kernel, model_equality
from holdfast.seeds import derive


def texts(seed: int, side: str, chances, n: int, prompts: int = 1, length: int = 1) -> dict[int, list[tuple[int, ...]]]:
    generator = derive(seed, "texts", side).numpy()
    shape = (prompts, n, length)
    drawn = generator.choice(len(chances), size=shape, p=chances)
    return {prompt: [tuple(row) for row in drawn[prompt].tolist()] for prompt in range(prompts)}


def test_the_kernel_counts_positions_with_the_same_token() -> None:
    kernel = hamming_kernel(["abcd", "abxd", "ab"])
    assert kernel.tolist() == [[4, 3, 2], [3, 4, 2], [2, 2, 4]]
    assert hamming_kernel(["abcd", "abxd"], 2).tolist() == [[2, 2], [2, 2]]


def test_the_statistic_estimates_the_distance_of_the_token_distributions() -> None:
    """For one-token texts the squared MMD is the sum of squared differences of probabilities: 0.08 here."""
    found = [
        model_equality(texts(k, "p", (0.5, 0.5), 20), texts(k, "q", (0.7, 0.3), 20), permutations=1, seed=k).statistic
        for k in range(400)
    ]
    half = 1.96 * np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - 2 * 0.2**2) < half
    assert half < 0.02


@pytest.mark.parametrize("prompts", [1, 5])
def test_under_the_null_the_false_alarm_rate_is_the_level(prompts: int) -> None:
    """Lengths of answers, numbers of them and prompts differ; the two sides do not."""
    alarms = [
        model_equality(
            texts(k, "one", (0.4, 0.3, 0.2, 0.1), 4, prompts, 6),
            texts(k, "two", (0.4, 0.3, 0.2, 0.1), 7, prompts, 6),
            permutations=199,
            seed=k,
        ).differ(0.05)
        for k in range(400)
    ]
    rate = Proportion.clopper_pearson(sum(alarms), len(alarms))
    assert rate.low <= 0.05 <= rate.high + 0.02
    assert rate.value < 0.08


def test_power_is_that_of_the_two_sample_test_of_proportions() -> None:
    """The peer formula: for texts of one binary token the test is one of p = q, whose power is textbook."""
    p, q, n, runs = 0.5, 0.75, 60, 300
    spread = math.sqrt(p * (1 - p) / n + q * (1 - q) / n)
    pooled = math.sqrt(2 * (p + q) / 2 * (1 - (p + q) / 2) / n)
    limit = stats.norm.ppf(0.975) * pooled
    expected = stats.norm.cdf((q - p - limit) / spread)
    found = [
        model_equality(texts(k, "p", (1 - p, p), n), texts(k, "q", (1 - q, q), n), permutations=199, seed=k).differ(
            0.05
        )
        for k in range(runs)
    ]
    rate = Proportion.clopper_pearson(sum(found), runs, 0.99)
    assert rate.low - 0.03 < expected < rate.high + 0.03  # counts are discrete, the formula is not
    assert 0.7 < expected < 0.9


def test_a_prompt_that_one_side_was_asked_more_often_is_no_difference() -> None:
    """Pooled over prompts, unequal counts alone would look like two models."""
    easy, hard = {0: ["a"] * 9, 1: ["b"] * 2}, {0: ["a"] * 2, 1: ["b"] * 9}
    assert model_equality(easy, hard).p_value == 1.0


def test_a_changed_token_shows_and_p_values_are_never_zero() -> None:
    found = model_equality({0: ["aaaa"] * 10}, {0: ["aaba"] * 10}, permutations=99)
    assert found.p_value == 1 / 100
    assert found.sure.high < 0.05
    assert found.differ(0.05)


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="twice or more"):
        model_equality({0: ["a"]}, {0: ["a", "b"]})
    with pytest.raises(InvalidConfig, match="twice or more"):
        model_equality({0: ["a", "b"]}, {1: ["a", "b"]})
