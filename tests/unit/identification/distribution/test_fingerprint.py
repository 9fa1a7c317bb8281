"""A fingerprint learns what is there, keeps its labels and its tensors, and refuses what it cannot judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.multiclass import OneVsOneClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from holdfast.errors import DigestMismatch, InvalidConfig, UnknownName, UnsupportedVersion, VerificationError
from holdfast.identification.distribution import Examples, LogitDistribution, OneVsOneSVM
from holdfast.seeds import derive

from .made import family, made, telling, values

METHODS = ("ovo-svm", "mlp:hidden=32,rate=0.01,epochs=10")


@pytest.mark.parametrize("method", METHODS)
def test_a_bit_that_tells_is_found_on_inputs_never_seen(method: str):
    fingerprint = LogitDistribution(method).fit(Examples.of(telling(200), size=2))
    unseen = Examples.of(telling(60, start=1000), size=2)
    assert fingerprint.labels_ == ("even", "odd")
    assert np.mean([a == b for a, b in zip(fingerprint.predict(unseen), unseen.labels, strict=True)]) > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_it_answers_alike_after_it_was_saved(method: str, tmp_path):
    examples, unseen = Examples.of(telling(), size=2), Examples.of(telling(start=500), size=2)
    fingerprint = LogitDistribution(method, seed=2**63).fit(examples)
    fingerprint.save(tmp_path / "fp")
    loaded = LogitDistribution.load(tmp_path / "fp")
    assert np.array_equal(loaded.scores(unseen), fingerprint.scores(unseen))
    assert (loaded.labels_, loaded.seed, loaded.training_) == (("even", "odd"), 2**63, fingerprint.training_)
    assert loaded.baselines_ == fingerprint.baselines_
    assert sorted(path.name for path in (tmp_path / "fp").iterdir()) == [
        "fingerprint.json",
        "fingerprint.safetensors",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_learns_the_same_and_leaves_the_global_generators_alone(method: str):
    examples = Examples.of(family(), size=5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (LogitDistribution(method, seed=7).fit(examples) for _ in range(2))
    assert all(torch.equal(first.learned_[name], second.learned_[name]) for name in first.learned_)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_the_machines_vote_as_those_of_scikit_learn():
    train, test = Examples.of(family(100), size=2), Examples.of(family(80, start=500), size=2)
    fingerprint = LogitDistribution("ovo-svm").fit(train)
    scaler = StandardScaler().fit(train.bits)
    peer = OneVsOneClassifier(LinearSVC(dual="auto", max_iter=10_000, random_state=0))
    peer.fit(scaler.transform(train.bits), train.labels)
    theirs = peer.predict(scaler.transform(test.bits))
    assert np.mean(theirs == fingerprint.predict(test)) > 0.98  # solvers stop where their random order ends


def test_features_are_standardised_by_training_alone():
    bits = np.array([[0, 1], [1, 1], [1, 0], [1, 1]], dtype=np.uint8)
    learned = OneVsOneSVM().fit(bits, np.array([0, 1, 0, 1]), np.arange(4), 2, derive(0))
    assert learned["mean"].tolist() == [0.75, 0.75]
    assert learned["spread"].tolist() == pytest.approx([0.1875**0.5] * 2)


def test_labels_go_by_name_whatever_the_order_of_recordings():
    one = LogitDistribution().fit(Examples.of(telling(), size=2))
    other = LogitDistribution().fit(Examples.of(telling()[::-1], size=2))
    assert one.labels_ == other.labels_ == ("even", "odd")
    only_odd = Examples.of(telling(40, start=900)[1:], size=2)
    assert set(one.predict(only_odd)) == {"odd"}


def test_a_machine_that_has_not_converged_says_so():
    examples = Examples.of(family(), size=5)
    assert LogitDistribution("ovo-svm").fit(examples).converged
    assert not LogitDistribution("ovo-svm:iterations=1").fit(examples).converged


def test_what_it_has_seen_it_refuses_to_judge_also_after_it_was_saved(tmp_path):
    examples = Examples.of(telling(), size=2)
    LogitDistribution().fit(examples).save(tmp_path)
    loaded = LogitDistribution.load(tmp_path)
    with pytest.raises(VerificationError, match="the test set is the training set"):
        loaded.require_unseen(examples)
    with pytest.raises(VerificationError, match="inputs are in training and test"):
        loaded.require_unseen(examples.take([0, 1]))
    with pytest.raises(InvalidConfig, match="never seen neither"):
        loaded.require_unseen(Examples.of([made("neither", values(10), start=800)], size=2))
    loaded.require_unseen(Examples.of(telling(start=800), size=2))


def test_examples_of_another_size_and_single_classes_are_refused():
    fingerprint = LogitDistribution().fit(Examples.of(telling(), size=2))
    with pytest.raises(InvalidConfig, match="3 x 4 words do not fit 2 x 4"):
        fingerprint.predict(Examples.of(telling(start=800), size=3))
    with pytest.raises(InvalidConfig, match="one class, even"):
        LogitDistribution().fit(Examples.of(telling()[:1], size=2))
    with pytest.raises(InvalidConfig, match="learned nothing"):
        LogitDistribution().predict(Examples.of(telling(), size=2))
    with pytest.raises(UnknownName, match="forest"):
        LogitDistribution("forest").fit(Examples.of(telling(), size=2))


def test_other_tensors_and_versions_are_refused(tmp_path):
    fingerprint = LogitDistribution().fit(Examples.of(telling(), size=2))
    fingerprint.save(tmp_path)
    tensors = load_file(tmp_path / "fingerprint.safetensors")
    save_file(tensors | {"bias": tensors["bias"] + 1}, tmp_path / "fingerprint.safetensors")
    with pytest.raises(DigestMismatch, match="differs from its digest"):
        LogitDistribution.load(tmp_path)
    text = (tmp_path / "fingerprint.json").read_text()
    (tmp_path / "fingerprint.json").write_text(text.replace("fingerprint/v1", "fingerprint/v9"))
    with pytest.raises(UnsupportedVersion):
        LogitDistribution.load(tmp_path)
