"""A dataset is its pixels, labels, order and preprocessing, and its digest binds all of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from holdfast.data import Dataset, Preprocessing, dataset, probes
from holdfast.errors import InvalidConfig, UnknownName, UnreadableArtifact


def small(**changes: object) -> Dataset:
    raw = torch.arange(2 * 1 * 2 * 2, dtype=torch.uint8).view(2, 1, 2, 2)
    return dataclasses.replace(
        Dataset("small", raw, torch.tensor([0, 1]), ("a", "b"), Preprocessing(1 / 255)), **changes
    )


def test_digest_binds_everything() -> None:
    base = small()
    variants = [
        small(labels=torch.tensor([1, 1])),
        small(raw=base.raw.flip(0)),
        small(raw=base.raw.flip(0), labels=torch.tensor([1, 0])),
        small(classes=("a", "c")),
        small(preprocessing=Preprocessing(1 / 255, (0.1,), (1.0,))),
        small(raw=base.raw.view(2, 1, 1, 4)),
        small(raw=base.raw.float()),
    ]
    digests = {base.digest, *(item.digest for item in variants)}
    assert len(digests) == len(variants) + 1
    assert small().digest == base.digest
    assert small(name="another name").digest == base.digest


def test_a_preprocessing_is_read_back_and_what_is_none_is_named() -> None:
    known = Preprocessing(1 / 255, (0.5, 0.25), (1.0, 2.0))
    assert Preprocessing.from_json(known.to_json()) == known
    for change, what in (
        ({"scale": "1"}, "scale of a preprocessing is '1'"),
        ({"mean": 0.5}, "mean of a preprocessing is 0.5"),
        ({"std": [True, 1.0]}, "std of a preprocessing"),
        ({"std": [0.0, 1.0]}, "positive std"),
        ({"mean": [0.5]}, "one mean and one positive std"),
        ({"more": 1}, "is no preprocessing"),
    ):
        with pytest.raises(UnreadableArtifact, match=what):
            Preprocessing.from_json(known.to_json() | change)
    with pytest.raises(UnreadableArtifact, match="is no preprocessing"):
        Preprocessing.from_json([1.0])


def test_batch_applies_preprocessing_per_channel() -> None:
    raw = torch.full((1, 2, 1, 1), 100, dtype=torch.uint8)
    data = Dataset("x", raw, torch.tensor([0]), ("a",), Preprocessing(0.01, (0.5, 1.0), (0.5, 2.0)))
    images, labels = data.batch(torch.tensor([0]))
    assert images.flatten().tolist() == pytest.approx([1.0, 0.0])
    assert labels.tolist() == [0]


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0]])
def test_label_out_of_range_is_named(labels: list[int]) -> None:
    with pytest.raises(InvalidConfig, match="label"):
        small(labels=torch.tensor(labels))


def test_empty_and_nan_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="empty"):
        small(raw=torch.zeros(0, 1, 2, 2), labels=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InvalidConfig, match="NaN"):
        small(raw=torch.full((2, 1, 2, 2), float("nan")))


def test_split_is_disjoint_complete_and_seeded() -> None:
    data = dataset("digits")
    first, second = data.split(0.2, seed=3)
    assert (len(first), len(second)) == (100, 400)
    rows = {tuple(row.flatten().tolist()) for row in data.raw}
    parts = [tuple(row.flatten().tolist()) for part in (first, second) for row in part.raw]
    assert len(parts) == len(data)
    assert set(parts) == rows
    assert data.split(0.2, seed=3)[0].digest == first.digest
    assert data.split(0.2, seed=4)[0].digest != first.digest


def test_digits_train_and_test_share_no_row() -> None:
    train, test = dataset("digits", split="train"), dataset("digits", split="test")
    assert (len(train), len(test)) == (1297, 500)
    from sklearn.datasets import load_digits

    assert int(torch.cat((train.raw, test.raw)).sum()) == int(load_digits().images.sum())
    assert sorted(torch.cat((train.labels, test.labels)).tolist()) == sorted(load_digits().target.tolist())


def test_probes_are_the_same_bits_for_one_seed() -> None:
    one, same, other = (probes("uniform", n=4, shape=(3, 8, 8), seed=seed) for seed in (1, 1, 2))
    assert one.digest == same.digest != other.digest
    assert one.raw.dtype == torch.uint8
    assert set(one.labels.tolist()) == {-1}


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        dataset("digit")
    assert "digits" in caught.value.hint
    with pytest.raises(InvalidConfig, match="split"):
        dataset("digits", split="validation")
