"""Made-up labelled data, for tests and examples."""

from __future__ import annotations

import torch

from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing
from holdfast.errors import InvalidConfig
from holdfast.seeds import derive


@datasets.register("synthetic")
def synthetic(
    n: int = 256, classes: int = 4, channels: int = 1, size: int = 8, seed: int = 0, split: str = "test"
) -> Dataset:
    """Return noisy prototypes: each class is one random uint8 image, each sample that image plus uniform noise.

    Both splits share the prototypes and no noise.

    Raises:
        InvalidConfig: a count or size below one, or another split than ``train`` and ``test``.
    """
    if min(n, classes, channels, size) < 1:
        raise InvalidConfig("synthetic data needs at least one sample, class, channel and pixel")
    if split not in ("train", "test"):
        raise InvalidConfig(f"synthetic has no split {split!r}", hint="train or test")
    generator = derive(seed, "prototypes").numpy()
    prototypes = generator.integers(0, 192, (classes, channels, size, size))
    noise = derive(seed, "noise", split).numpy()
    labels = noise.integers(0, classes, n)
    raw = (prototypes[labels] + noise.integers(0, 64, (n, channels, size, size))).astype("uint8")
    names = tuple(str(index) for index in range(classes))
    return Dataset(f"synthetic/{split}", torch.from_numpy(raw), torch.from_numpy(labels), names, Preprocessing(1 / 255))
