"""scikit-learn's handwritten digits: 1,797 real 8x8 images (Alpaydin & Kaynak, 1998) that ship with the dependency."""

from __future__ import annotations

import torch

from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing
from holdfast.errors import InvalidConfig
from holdfast.seeds import derive

_TEST = 500


@datasets.register("digits")
def digits(split: str = "test") -> Dataset:
    """Return the ``train`` (1,297) or ``test`` (500) part of a fixed, disjoint split.

    Raises:
        InvalidConfig: another split name.
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise InvalidConfig(f"digits has no split {split!r}", hint="train or test")
    bunch = load_digits()
    order = derive(0, "digits split").numpy().permutation(len(bunch.target))
    chosen = sorted(order[:_TEST] if split == "test" else order[_TEST:])
    raw = torch.from_numpy(bunch.images[chosen]).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target[chosen]).to(torch.int64)
    return Dataset(f"digits/{split}", raw, labels, tuple("0123456789"), Preprocessing(1 / 16, (0.5,), (0.5,)))
