"""Figures go by label, have intervals over groups, and agree with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from holdfast.errors import InvalidConfig
from holdfast.execution.statistics import wilson_of_mean
from holdfast.identification.distribution import score
from holdfast.seeds import derive

LABELS = ("a", "b", "c")


def drawn(n: int, *, right: float = 0.6, seed: int = 0) -> tuple[list[str], list[str]]:
    generator = derive(seed, "drawn").numpy()
    truth = [LABELS[place] for place in generator.integers(0, 3, n)]
    named = [label if generator.random() < right else LABELS[generator.integers(0, 3)] for label in truth]
    return truth, named


def test_figures_are_those_of_scikit_learn():
    truth, named = drawn(200)
    found = score("x", truth, named, range(200))
    assert found.accuracy.value == pytest.approx(accuracy_score(truth, named))
    assert found.mcc.value == pytest.approx(matthews_corrcoef(truth, named))
    f1 = [found.f1[label].value for label in LABELS]
    assert f1 == pytest.approx(f1_score(truth, named, labels=LABELS, average=None))


def test_an_answer_outside_the_labels_is_wrong_and_misnames_nothing():
    truth, named = ["a", "a", "b", "b"], ["a", "unknown", "b", "b"]
    found = score("x", truth, named, range(4))
    assert found.labels == ("a", "b")
    assert found.confusion == ((1, 0, 1), (0, 2, 0))
    assert found.f1["b"].value == 1
    assert found.accuracy.value == 0.75
    assert found.mcc.value == pytest.approx(matthews_corrcoef(truth, named))


def test_intervals_widen_when_examples_depend_on_each_other():
    truth, named = drawn(400)
    alone = score("x", truth, named, range(400)).accuracy
    copies = score(
        "x", np.repeat(truth[:40], 10).tolist(), np.repeat(named[:40], 10).tolist(), np.repeat(range(40), 10)
    )
    assert copies.accuracy.high - copies.accuracy.low > 2 * (alone.high - alone.low)
    assert (copies.groups, copies.accuracy.n) == (40, 400)


def test_intervals_cover_the_truth_as_often_as_they_say():
    hits = 0
    for seed in range(60):
        truth, named = drawn(150, right=0.6, seed=seed)
        found = score("x", truth, named, range(150)).accuracy
        hits += found.low <= 0.6 + 0.4 / 3 <= found.high
    assert hits >= 52  # 57 expected, deviation 1.7


@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("groups", [1, 3, 10, 40])
def test_ten_of_ten_is_no_certainty(groups: int, copies: int):
    """All resamples of what is always right are always right: percentiles alone say 1.000 (1.000-1.000)."""
    truth = ["a", "b"] * (groups * copies)
    found = score("x", truth, truth, np.repeat(range(groups), 2 * copies))
    assert found.accuracy.low == pytest.approx(wilson_of_mean(1.0, groups).low)  # whatever stands in each group
    assert found.accuracy.value == found.accuracy.high == 1.0
    assert found.f1["a"].low == pytest.approx(found.accuracy.low)
    assert found.mcc.low == pytest.approx(2 * found.accuracy.low - 1)
    wrong = score("x", truth, ["c"] * len(truth), np.repeat(range(groups), 2 * copies))
    assert (wrong.accuracy.low, wrong.accuracy.value) == (0.0, 0.0)
    assert wrong.accuracy.high == pytest.approx(1 - found.accuracy.low)


def test_one_wrong_in_many_is_less_certain_than_none():
    """The interval of nearly all right does not lie above that of all right."""
    truth = ["a", "b"] * 50
    place = np.repeat(range(10), 10)
    none = score("x", truth, truth, place).accuracy
    one = score("x", truth, ["b", *truth[1:]], place).accuracy
    assert one.low < none.low < one.value < none.value


def test_where_enough_groups_differ_the_interval_is_the_bootstrap_of_groups():
    """Every group has one example that is always right and one that is right in half of them: Wilson's is far wider."""
    truth = ["a", "b"] * 100
    named = [x for number in range(100) for x in ("a", "b" if number % 2 else "a")]
    found = score("x", truth, named, np.repeat(range(100), 2)).accuracy
    coin = wilson_of_mean(0.75, 100)
    assert coin.low < found.low < 0.72
    assert 0.78 < found.high < coin.high


def test_groups_count_by_their_sizes():
    """One group of 90 and ten of one: 100^2 / (90^2 + 10) makes one effective group, not eleven."""
    truth = ["a", "b"] * 50
    found = score("x", truth, truth, [0] * 90 + list(range(1, 11)))
    assert found.groups == 11
    assert found.accuracy.low == pytest.approx(wilson_of_mean(1.0, 1).low)


def test_high_accuracies_of_few_groups_are_covered_as_often_as_they_say():
    """19 of 20 right on average: percentiles of twenty groups cover it in two cases of three."""
    hits = 0
    for seed in range(200):
        right = derive(seed, "right").numpy().random(20) < 0.95
        named = ["a" if one else "b" for one in right]
        found = score("x", ["a"] * 20, named, range(20)).accuracy
        hits += found.low <= 0.95 <= found.high
    assert hits >= 180  # 190 expected, deviation 3


def test_nothing_to_judge_is_refused():
    with pytest.raises(InvalidConfig, match="do not fit"):
        score("x", ["a"], [], [0])
