"""Figures go by label, have intervals over groups, and agree with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from holdfast.errors import InvalidConfig
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


def test_nothing_to_judge_is_refused():
    with pytest.raises(InvalidConfig, match="do not fit"):
        score("x", ["a"], [], [0])
