"""What guards are worth is measured on data they never saw, with both arms under the same faults."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import campaign
from holdfast.faults import BitFlip
from holdfast.hardening import GuardReport, RangeGuard, evaluate_guards, harden, method_of
from holdfast.hardening.evaluate import false_positives, overhead
from holdfast.models import attach_guard, card


@pytest.fixture(scope="module")
def train() -> Dataset:
    return dataset("digits", split="train")


@pytest.fixture(scope="module")
def hardened(trained: nn.Module, train: Dataset) -> nn.Module:
    return harden(trained, method_of("range:at=activations,slack=1.1").calibrated(trained, train))


@pytest.fixture(scope="module")
def brighter(digits: Dataset) -> Dataset:
    """The test digits with three times the contrast, which no calibration has seen."""
    stretched = dataclasses.replace(digits.preprocessing, scale=digits.preprocessing.scale * 3)
    return dataclasses.replace(digits, preprocessing=stretched)


@pytest.fixture(scope="module")
def report(trained: nn.Module, hardened: nn.Module, digits: Dataset, brighter: Dataset) -> GuardReport:
    return evaluate_guards(trained, hardened, digits, BitFlip(), trials=800, shifted={"brighter": brighter})


def test_both_arms_are_the_campaigns_one_would_run(report, trained, hardened, digits):
    for arm, model in enumerate((trained, hardened)):
        alone = campaign(model, digits, BitFlip(), at="activations", trials=800, seed=0)
        assert (report.critical[arm], report.due[arm]) == (alone["critical"], alone["due"])
    assert report.critical[1].value < report.critical[0].value
    assert report.due[1].successes == 0
    assert report.p_value < 0.01


def test_coverage_is_of_the_faults_that_mattered(report):
    mattered = report.critical[0].successes + report.due[0].successes
    assert report.coverage.n == report.corrected.n == mattered
    assert report.coverage.low <= report.coverage.value <= report.coverage.high
    assert report.coverage.value > 0.5
    assert report.corrected.value > 0.5


def test_false_positives_on_clean_and_shifted_data(report, trained, hardened, train):
    assert report.clean.samples.n == report.shifted["brighter"].samples.n
    assert report.clean.samples.value < 0.2
    assert report.shifted["brighter"].samples.value > report.clean.samples.value
    assert report.shifted["brighter"].events["conv1"] > 0
    seen = false_positives(trained, hardened, train)
    assert (seen.samples.successes, seen.changed.successes, seen.events) == (0, 0, {})


def test_the_report_is_plain_data(report):
    value = report.to_json()
    assert value["guards"] == report.guards
    assert value["critical"][0]["n"] == 800
    assert set(value["shifted"]) == {"brighter"}
    assert set(value["clean"]["samples"]) == {"value", "low", "high", "n"}


def test_overhead_sees_a_slow_guard(trained, digits):
    class Slow(RangeGuard):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(300):
                x.sum()
            return super().__call__(x)

    slow = harden(trained, method_of("range:at=branches").calibrated(trained, digits))
    attach_guard(slow, Slow("fc", -1e6, 1e6))
    assert overhead(trained, slow, digits.take(1).all()[0]) > 0.5


def test_judging_guards_on_their_own_calibration_is_refused(trained, hardened, train):
    with pytest.raises(InvalidConfig, match="calibrated on this very data"):
        evaluate_guards(trained, hardened, train, BitFlip(), trials=10)


def test_a_model_without_guards_is_refused(trained, digits):
    assert not card(trained).guards
    with pytest.raises(InvalidConfig, match="no guards"):
        evaluate_guards(trained, trained, digits, BitFlip(), trials=10)
