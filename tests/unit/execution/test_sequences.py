"""Confidence sequences: their published form, and their coverage under the worst of stopping rules."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution import BettingSequence, EmpiricalBernsteinSequence, MeanEstimate, anytime_interval

METHODS = ("betting", "empirical-bernstein")


def draws(law: str, count: int, seed: int) -> tuple[float, np.ndarray]:
    generator = np.random.default_rng(seed)
    if law == "bernoulli":
        return 0.1, (generator.random(count) < 0.1).astype(float)
    if law == "rare":  # most chips lose little and one in fifty loses nearly all
        return 0.98 * 0.07 + 0.02 * 0.9, np.where(generator.random(count) < 0.02, 0.9, 0.07)
    if law == "beta":
        return 10 / 40, generator.beta(10, 30, count)
    return 0.5, generator.random(count)


@pytest.mark.parametrize("law", ["bernoulli", "beta", "rare", "uniform"])
@pytest.mark.parametrize("method", METHODS)
def test_all_intervals_of_a_run_hold_the_mean_together(method: str, law: str) -> None:
    """400 runs of 120 values at 90 %: the share that is *ever* wrong stays below 10 % (up to 3 sigma of chance)."""
    runs, misses = 400, 0
    for seed in range(runs):
        mean, values = draws(law, 120, seed)
        if method == "betting":
            misses += bets_rule_out(mean, values)
            continue
        sequence = EmpiricalBernsteinSequence(0.9)
        for value in values:
            sequence.add(value)  # the interval is the intersection of all so far, so the last says it all
        misses += not sequence.estimate.low <= mean <= sequence.estimate.high
    assert misses / runs < 0.1 + 3 * math.sqrt(0.09 / runs)


def bets_rule_out(mean: float, values: np.ndarray) -> bool:
    """Whether the capital ever reaches the limit; what the interval inverts (next test), but thirty times faster."""
    sequence = BettingSequence(0.9)
    for number, value in enumerate(values):
        sequence._values = np.append(sequence._values[:number], value)
        sequence._stakes = np.append(sequence._stakes[:number], sequence._bets.stake())
        sequence._bets.take(float(value))
        if max(sequence.capital(mean)) >= math.log(2 / 0.1):
            return True
    return False


def test_a_naive_interval_does_not_survive_looking_after_every_value() -> None:
    """Why the sequences exist: Student's t interval, checked after each value, is wrong far more often than 10 %."""
    misses = 0
    for seed in range(100):
        mean, values = draws("beta", 60, seed)
        looks = (MeanEstimate.student_t(list(values[:n]), 0.9) for n in range(5, 61))
        misses += any(not look.low <= mean <= look.high for look in looks)
    assert misses > 25


def test_the_betting_interval_is_the_set_the_capital_does_not_rule_out() -> None:
    _, values = draws("beta", 80, 3)
    sequence = BettingSequence(0.95)
    for value in values:
        sequence.add(value)
    final = sequence.estimate
    limit = math.log(2 / 0.05)
    for m in np.linspace(0, 1, 501):
        ruled_out = max(sequence.capital(float(m))) >= limit
        if final.low < m < final.high:
            assert not ruled_out
    grid = np.linspace(0, 1, 2001)
    kept = [m for m in grid if max(sequence.capital(float(m))) < limit]
    assert kept[0] >= final.low - 1e-3  # the intersection with earlier intervals may only be narrower
    assert kept[-1] <= 1


def test_empirical_bernstein_against_the_formula_written_out() -> None:
    values, alpha = [0.2, 0.9, 0.4], 0.05
    mean, squares, total, weighted, spread = 0.5, 0.25, 0.0, 0.0, 0.0
    for t, x in enumerate(values, start=1):
        variance = squares / t
        stake = min(0.5, math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t))))
        spread += 4 * (x - mean) ** 2 * (-math.log(1 - stake) - stake) / 4
        total, weighted = total + stake, weighted + stake * x
        mean = (0.5 + sum(values[:t])) / (t + 1)
        squares += (x - mean) ** 2
    radius = (math.log(2 / alpha) + spread) / total
    found = anytime_interval(values, 0.95, "empirical-bernstein")
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(max(0.0, weighted / total - radius))
    assert found.high == pytest.approx(min(1.0, weighted / total + radius))


@pytest.mark.parametrize("method", METHODS)
def test_intervals_only_shrink_and_adapt_to_the_spread(method: str) -> None:
    generator = np.random.default_rng(0)
    narrow, wide = 0.3 + 0.01 * generator.random(400), generator.random(400)
    calm, wild = anytime_interval(narrow, 0.95, method), anytime_interval(wide, 0.95, method)
    assert calm.width < wild.width
    assert calm.n == 400
    sequence = BettingSequence() if method == "betting" else EmpiricalBernsteinSequence()
    widths = [sequence.add(value).width for value in wide[:60]]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(widths))


def test_betting_is_the_narrower_of_the_two() -> None:
    _, values = draws("beta", 100, 0)
    assert anytime_interval(values).width < anytime_interval(values, method="empirical-bernstein").width


@pytest.mark.parametrize("method", METHODS)
def test_extremes(method: str) -> None:
    assert (anytime_interval([], method=method).low, anytime_interval([], method=method).high) == (0.0, 1.0)
    zeros, ones = anytime_interval([0.0] * 200, method=method), anytime_interval([1.0] * 200, method=method)
    assert zeros.low == 0.0
    assert zeros.high < 0.1
    assert ones.high == 1.0
    assert ones.low > 0.9
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidConfig, match=r"\[0, 1\]"):
            anytime_interval([bad], method=method)


def test_nonsense_is_refused() -> None:
    with pytest.raises(UnknownName, match="hoeffding"):
        anytime_interval([0.5], method="hoeffding")
    with pytest.raises(InvalidConfig, match="confidence"):
        BettingSequence(95)
