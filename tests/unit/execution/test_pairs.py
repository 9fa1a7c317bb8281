"""Paired comparison over chips: by hand, against scipy, and what common chips buy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import RobustError, anytime_interval, pair_chips, robust_error
from holdfast.faults import BitErrors
from holdfast.quantization import quantize


def result(wrong: np.ndarray, **question: object) -> RobustError:
    rates = wrong.mean(1)
    return RobustError.of(
        np.zeros(wrong.shape[1], bool),
        wrong,
        anytime=anytime_interval(rates),
        nonfinite=[0] * len(wrong),
        flips=[0] * len(wrong),
        question=question,
    )


def test_against_scipy() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random((20, 1)) * 0.4
    first, second = (generator.random((20, 200)) < hard + shift for shift in (0.1, 0.05))
    found = pair_chips(result(first), result(second))
    a, b = first.mean(1), second.mean(1)
    assert found.difference.value == pytest.approx((b - a).mean())
    assert found.t_test == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(b - a).pvalue)
    assert found.sign == pytest.approx(stats.binomtest(found.first_better, int((a != b).sum())).pvalue)
    assert found.first_better == int((b > a).sum())
    assert found.second_better == int((b < a).sum())
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert found.over_images.value == pytest.approx(found.difference.value)
    assert found.anytime.low <= found.difference.low <= found.difference.high <= found.anytime.high


def test_common_chips_narrow_the_interval() -> None:
    """Chips of unequal quality hit both models alike: unpaired, the same data would say nothing."""
    generator = np.random.default_rng(1)
    hard = generator.random((30, 1)) * 0.6
    first, second = (generator.random((30, 500)) < hard + shift for shift in (0.05, 0.0))
    found = pair_chips(result(first), result(second))
    assert found.t_test < 1e-6
    assert found.correlation > 0.9
    assert stats.ttest_ind(first.mean(1), second.mean(1)).pvalue > 0.05


def test_equal_models_and_constant_differences() -> None:
    wrong = np.random.default_rng(0).random((5, 40)) < 0.3
    same = pair_chips(result(wrong), result(wrong))
    assert (same.t_test, same.wilcoxon, same.sign, same.difference.value) == (1.0, 1.0, 1.0, 0.0)
    none, all_ = np.zeros((5, 10), bool), np.ones((5, 10), bool)
    worse = pair_chips(result(none), result(all_))
    assert worse.difference.value == 1.0
    assert np.isnan(worse.t_test)
    assert worse.difference.low < 0.7 < worse.difference.high == 1.0
    assert (worse.difference.low, worse.difference.high) == (worse.anytime.low, worse.anytime.high)
    assert np.isnan(worse.correlation)
    assert worse.first_better == 5


def test_equal_differences_prove_nothing() -> None:
    """Two chips on which one more image fails: the spread is unknown, not zero, also after rounding (0.3 - 0.2)."""
    images = np.arange(10)
    first, second = (np.stack([images < wrong for wrong in rates]) for rates in ((1, 2), (2, 3)))
    found = pair_chips(result(first), result(second))
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.low < 0 < found.difference.high
    assert np.isnan(found.t_test)
    assert found.sign == 0.5
    same = pair_chips(result(first), result(first))
    assert same.difference.low < 0 < same.difference.high
    assert same.over_images.low < 0 < same.over_images.high


def test_the_p_values_are_uniform_without_a_difference() -> None:
    generator, hits = np.random.default_rng(5), np.zeros(2)
    for _ in range(120):
        hard = generator.random((15, 1)) * 0.5
        first, second = (generator.random((15, 100)) < hard for _ in range(2))
        found = pair_chips(result(first), result(second))
        hits += (found.t_test < 0.1, found.wilcoxon < 0.1)
    assert (abs(hits / 120 - 0.1) < 0.085).all()


def test_other_chips_are_refused(trained: nn.Module, digits: Dataset) -> None:
    few = digits.take(40)
    plain = robust_error(trained, few, BitErrors(rate=1e-3), chips=3)
    with pytest.raises(InvalidConfig, match="differ in seed"):
        pair_chips(plain, robust_error(trained, few, BitErrors(rate=1e-3), chips=3, seed=1))
    with pytest.raises(InvalidConfig, match="differ in fault"):
        pair_chips(plain, robust_error(trained, few, BitErrors(rate=1e-2), chips=3))


def test_quantised_against_float(trained: nn.Module, digits: Dataset) -> None:
    """Both have the same sites, so both meet chip k; float32 loses far more to the same rate."""
    few, law = digits.take(100), BitErrors(rate=1e-3)
    found = pair_chips(*(robust_error(m, few, law, chips=12) for m in (trained, quantize(trained, "rquant8"))))
    assert found.difference.high < 0
    assert found.second_better > found.first_better
    assert found.wilcoxon < 0.05
    assert found.chips == 12
