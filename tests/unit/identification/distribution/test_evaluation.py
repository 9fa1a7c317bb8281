"""Held-out figures stand beside chance and beside what needs no learning."""

from __future__ import annotations

import pytest

from holdfast.errors import InvalidConfig, VerificationError
from holdfast.identification.distribution import (
    Baselines,
    Examples,
    LogitDistribution,
    evaluate,
    judge,
    match_runs,
    merged,
)

from .made import family, made, telling, values


def test_stacks_that_differ_by_chance_are_not_told_apart_although_training_says_they_are():
    """The published scripts print the training accuracy of such a case: 1.000."""
    found = evaluate(Examples.of(family(200)[1:], size=5))
    assert found.training == 1.0
    assert found.score.accuracy.low < 0.5 < found.score.accuracy.high
    assert not found.beats_baselines


def test_what_can_be_told_is_told_beyond_the_baselines():
    found = evaluate(Examples.of(telling(200), size=2))
    assert found.score.accuracy.value > 0.95
    assert found.beats_baselines
    assert [item.name for item in found.scores] == ["ovo-svm", "majority", "trailing zeros", "zero counts"]
    assert found.chance == 0.5


def test_trailing_zeros_explain_bf16_without_any_learning():
    scores = evaluate(Examples.of(family(120), size=5)).scores
    learned, majority, zeros, _ = scores
    assert learned.f1["bf16"].value == zeros.f1["bf16"].value == 1.0
    assert learned.f1["fp32-a"].value < 0.75
    assert majority.accuracy.value == pytest.approx(1 / 3)


def test_the_zero_rule_tells_three_kinds_of_words():
    exact = values(40)
    recordings = [
        made("bf16", exact.bfloat16().float()),
        made("fp16", exact.half().float()),
        made("fp32", exact),
        made("mx", exact * 1.1),
    ]
    rule = Baselines.fit(Examples.of(recordings, size=4))
    assert rule.by_zeros == {"bf16-like": "bf16", "fp16-like": "fp16", "full": "fp32"}
    unseen = Examples.of([made("fp16", values(8, seed=9).half().float(), start=90)], size=4)
    assert rule.predict(unseen)["trailing zeros"] == ["fp16", "fp16"]
    assert Baselines.from_json(rule.to_json()) == rule


def test_counting_zeros_tells_what_the_sums_of_short_products_end_in():
    """An emulated fp8 head: its products have few bits and are summed without loss, so its words end early."""
    exact = values(200)
    grid = (exact * 2**18).round() / 2**18
    found = evaluate(Examples.of([made("fp32", exact), made("fp8-head", grid)], size=5))
    counted = found.scores[3]
    assert counted.accuracy.value > 0.95
    assert found.scores[2].accuracy.value < 0.7  # fewer than 13 zeros: the plain rule does not see them
    assert not found.beats_baselines


def test_a_fingerprint_is_judged_elsewhere_by_its_own_labels():
    fingerprint = LogitDistribution().fit(Examples.of(telling(200), size=2))
    found = judge(fingerprint, Examples.of(telling(40, start=900)[:1], size=2))
    assert found.score.accuracy.value == 1.0
    assert found.score.labels == ("even",)
    assert (found.chance, found.present, found.learned) == (1.0, 1, 2)
    assert not found.beats_baselines  # always saying "even" would be right as often
    assert found.to_json()["chance_of"] == {"present": 1, "learned": 2}


def test_judging_by_training_inputs_fails_the_run():
    fingerprint = LogitDistribution().fit(Examples.of(telling(), size=2))
    with pytest.raises(VerificationError, match="leakage"):
        judge(fingerprint, Examples.of(telling(20), size=2))


def test_classes_with_equal_bits_are_one_class():
    recordings = [*family(40), made("copy", family(40)[1].trace.outputs)]
    assert sorted(item.label for item in merged(recordings)) == ["bf16", "copy = fp32-a", "fp32-b"]
    apart = [*family(40, run="a"), *family(40, run="b"), made("copy", values(40), run="b")]
    assert {item.label for item in merged(apart)} == {"bf16", "fp32-a", "fp32-b", "copy"}
    even = telling()[0]
    with pytest.raises(InvalidConfig, match="one class only, again = even"):
        evaluate(Examples.of(merged([even, made("again", even.trace.outputs)]), size=2))


def test_reference_matching_names_stacks_that_no_classifier_tells_apart():
    first, second = family(30, run="a"), family(30, run="b")
    found = match_runs([*first, *second])
    assert found.accuracy.value == 1.0
    assert found.groups == 30
    with pytest.raises(InvalidConfig, match="in two runs"):
        match_runs(first)


def test_a_tie_between_classes_is_nobodys():
    first, second = family(30, run="a"), family(30, run="b")
    copy = made("copy", first[1].trace.outputs, run="a")
    found = match_runs([*first, copy, *second])
    assert found.f1["fp32-a"].value == 0.0
    assert found.f1["fp32-b"].value == 1.0
