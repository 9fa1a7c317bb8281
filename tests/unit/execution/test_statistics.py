from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution import Estimate, MeanEstimate, Proportion, mcnemar, quantile, trials_for, worst_mean


@pytest.mark.parametrize(
    ("margin", "confidence", "published"),
    [(0.05, 0.95, 385), (0.05, 0.99, 664), (0.01, 0.95, 9604), (0.01, 0.99, 16590)],
)
def test_leveugle_sample_sizes(margin: float, confidence: float, published: int) -> None:
    """The published 16,590 takes t = 2.576; the exact quantile is 2.5758..., which needs two trials less."""
    expected = 16588 if published == 16590 else published
    assert trials_for(margin, confidence) == expected
    assert trials_for(margin, confidence, population=2 * 10**10) == expected
    assert 2.576**2 * 0.25 / margin**2 == pytest.approx(published, abs=1) or confidence == 0.95


def test_finite_population_never_needs_more_than_itself() -> None:
    assert trials_for(0.01, population=100) <= 100
    assert trials_for(0.01, population=10_000) < trials_for(0.01)
    n, e, t = 10_000, 0.01, stats.norm.ppf(0.975)
    assert trials_for(e, population=n) == math.ceil(n / (1 + e**2 * (n - 1) / (t**2 * 0.25)))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 2000), (57, 1000)])
def test_intervals_agree_with_scipy(k: int, n: int) -> None:
    result = stats.binomtest(k, n)
    for ours, method in ((Proportion.wilson, "wilson"), (Proportion.clopper_pearson, "exact")):
        low, high = result.proportion_ci(0.95, method=method)
        found = ours(k, n)
        assert found.low == pytest.approx(low, abs=1e-12)
        assert found.high == pytest.approx(high, abs=1e-12)
        assert found.low <= found.value <= found.high


def test_nothing_tried_says_nothing() -> None:
    assert (Proportion.wilson(0, 0).low, Proportion.wilson(0, 0).high) == (0.0, 1.0)
    assert (Proportion.clopper_pearson(0, 0).low, Proportion.clopper_pearson(0, 0).high) == (0.0, 1.0)


def test_wilson_covers_at_about_its_nominal_rate() -> None:
    n, p = 200, 0.03
    inside = sum(
        stats.binom.pmf(k, n, p)
        for k in range(n + 1)
        if Proportion.wilson(k, n).low <= p <= Proportion.wilson(k, n).high
    )
    assert 0.93 < inside < 0.98


def test_student_interval() -> None:
    values = [0.1, 0.2, 0.15, 0.3]
    found = MeanEstimate.student_t(values)
    low, high = stats.t.interval(0.95, 3, loc=found.value, scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert math.isinf(MeanEstimate.student_t([0.5]).high)
    assert MeanEstimate.student_t([0.5]).measurement(least=0.0, most=1.0).high == 1.0


def test_mcnemar_is_the_exact_sign_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(10, 0) == pytest.approx(2 * 0.5**10)


def test_worst_mean_by_hand() -> None:
    values = [0.1, 0.5, 0.2, 0.4, 0.3]
    assert worst_mean(values, 1.0) == pytest.approx(0.3)
    assert worst_mean(values, 0.4) == pytest.approx(0.45)
    assert worst_mean(values, 0.5) == pytest.approx((0.5 + 0.4 + 0.5 * 0.3) / 2.5)  # half of the third worst
    assert worst_mean(values, 0.01) == 0.5  # less than one value is the worst one


def test_quantile_interpolates_as_numpy_does() -> None:
    values = list(np.random.default_rng(0).random(23))
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(values, q).value == pytest.approx(np.quantile(values, q))
    assert quantile([1.0, math.inf, math.inf], 0.9, most=math.inf).value == math.inf


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_quantile_intervals_hold_the_quantile(q: float) -> None:
    """1,000 samples of 50 from a uniform law, whose quantile is q: at most 10 % of the intervals miss it."""
    generator, misses = np.random.default_rng(1), 0
    for _ in range(1000):
        found = quantile(list(generator.random(50)), q, 0.9)
        assert found.low <= found.value <= found.high
        misses += not found.low <= q <= found.high
    assert misses / 1000 < 0.1 + 3 * math.sqrt(0.09 / 1000)


def test_a_quantile_beyond_the_sample_reaches_the_end_of_the_range() -> None:
    assert quantile([0.2] * 5, 0.95).high == 1.0
    assert quantile([0.2] * 5, 0.05).low == 0.0
    assert Estimate(0.2, 0.1, 0.5, 3).width == pytest.approx(0.4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantile([], 0.5),
        lambda: quantile([0.1], 50),
        lambda: worst_mean([0.1], 0.0),
        lambda: worst_mean([], 0.1),
        lambda: Proportion.wilson(3, 2),
        lambda: Proportion.wilson(1, 2, confidence=95),
        lambda: MeanEstimate.student_t([]),
        lambda: trials_for(0.0),
        lambda: trials_for(0.1, p=1.0),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(InvalidConfig):
        call()  # type: ignore[operator]


def test_the_interval_of_a_share_stays_a_share() -> None:
    found = MeanEstimate.of_shares([0.1, 0.6])
    assert MeanEstimate.student_t([0.1, 0.6]).low < 0
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.measurement("proportion").high == 1.0


@pytest.mark.parametrize(("n", "low", "high"), [(1, 0.0, 1.0), (2, 0.01, 0.96), (50, 0.188, 0.248)])
def test_values_that_do_not_vary_are_no_certainty(n: int, low: float, high: float) -> None:
    found = MeanEstimate.of_shares([0.2] * n)
    assert not found.varies
    assert found.low == pytest.approx(low, abs=1e-3)
    assert found.high == pytest.approx(high, abs=1e-3)
    assert math.isinf(MeanEstimate.student_t([0.2] * n).high)  # without a range, anything may be unseen


def test_the_interval_of_equal_values_covers() -> None:
    draws = np.random.default_rng(0).random((4000, 8)) < 0.1  # 43 % of the runs see eight zeros
    estimates = (MeanEstimate.of_shares(row.astype(float).tolist()) for row in draws)
    equal = [found for found in estimates if not found.varies]
    assert len(equal) > 1000
    assert all(found.low <= 0.1 <= found.high for found in equal)
