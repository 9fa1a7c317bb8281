"""Splits share nothing, and whatever is shared all the same fails the run."""

from __future__ import annotations

import pytest

from holdfast.errors import InvalidConfig, VerificationError
from holdfast.identification.distribution import Examples, grouped_folds, require_no_leakage
from holdfast.identification.distribution.split import groups
from holdfast.seeds import derive

from .made import family, made, values


def test_no_input_is_on_both_sides_and_every_example_is_judged_once():
    examples = Examples.of(family(), size=5)
    judged: list[int] = []
    for fold in grouped_folds(examples, folds=4):
        train, test = examples.take(fold.train), examples.take(fold.test)
        assert not set().union(*train.inputs) & set().union(*test.inputs)
        assert set(test.labels) == set(examples.classes)
        judged.extend(fold.test.tolist())
    assert sorted(judged) == list(range(len(examples)))


def test_examples_that_share_one_input_of_many_stay_together():
    """The same probes cut at other places: every group of one overlaps two of the other."""
    shifted = [*family(20), made("late", values(20), start=5)]
    examples = Examples.of(shifted, size=10)
    assert len(set(groups(examples, "inputs"))) == 1
    with pytest.raises(InvalidConfig, match="share one input"):
        list(grouped_folds(examples, folds=2))


def test_runs_and_inputs_are_held_out_together():
    examples = Examples.of(family(run="a") + family(run="b", noise=1), size=5)
    for fold in grouped_folds(examples, folds=4, by=("inputs", "run")):
        train, test = examples.take(fold.train), examples.take(fold.test)
        assert len({*test.runs}) == 1
        assert not {*train.runs} & {*test.runs}
        assert not set().union(*train.inputs) & set().union(*test.inputs)


def test_what_cannot_be_held_out_is_said():
    with pytest.raises(InvalidConfig, match="share one machine"):
        list(grouped_folds(Examples.of(family(), size=5), by=("machine",)))
    alone = family(run="a") + family(run="b", noise=1)[:2]
    with pytest.raises(InvalidConfig, match=r"nothing of fp32-b is left"):
        list(grouped_folds(Examples.of(alone, size=5), by=("inputs", "run")))
    with pytest.raises(InvalidConfig, match="no 'day' to split by"):
        list(grouped_folds(Examples.of(family(), size=5), by=("day",)))


def test_judging_the_training_set_is_refused():
    """What img_logits_svm_transferability_gpus.py does."""
    examples = Examples.of(family(), size=5)
    with pytest.raises(VerificationError, match="the test set is the training set"):
        require_no_leakage(examples, examples.take(list(reversed(range(len(examples))))))


def test_the_same_input_under_another_label_is_leakage():
    """What img_logits_svm.py does: rows are split at random, so each has twins of its images in training."""
    examples = Examples.of(family(), size=5)
    held = derive(0, "rows").numpy().permutation(len(examples))
    with pytest.raises(VerificationError, match="inputs are in training and test"):
        require_no_leakage(examples.take(held[7:]), examples.take(held[:7]))


def test_copies_under_other_names_are_leakage():
    train = Examples.of(family(20), size=5)
    copies = [made(item.label, item.trace.outputs, start=1000) for item in family(20)]
    test = Examples.of([*copies, made("bf16", values(20, seed=3).bfloat16().float(), start=2000)], size=5)
    with pytest.raises(VerificationError, match="12 test examples have a twin in training"):
        require_no_leakage(train, test)


def test_runs_alone_are_not_held_out_where_inputs_repeat():
    """A deterministic platform repeats every bit, so the other run of an input is its twin."""
    examples = Examples.of(family(run="a") + family(run="b", noise=1), size=5)
    with pytest.raises(VerificationError, match="twin in training: bf16"):
        list(grouped_folds(examples, by=("run",)))


def test_a_shared_run_is_leakage_only_where_runs_are_held_out():
    train, test = Examples.of(family(20), size=5), Examples.of(family(20, start=100), size=5)
    require_no_leakage(train, test)
    with pytest.raises(VerificationError, match="run are in training and test"):
        require_no_leakage(train, test, by=("inputs", "run"))
