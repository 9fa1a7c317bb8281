"""Made-up data: labelled blobs for tests, and probes for telling platforms apart."""

from __future__ import annotations

import torch

from holdfast._registry import unknown
from holdfast.data.catalogue import datasets
from holdfast.data.dataset import UNLABELLED, Dataset, Preprocessing
from holdfast.seeds import derive


@datasets.register("synthetic")
def synthetic(
    n: int = 256, classes: int = 4, channels: int = 1, size: int = 8, seed: int = 0, split: str = "test"
) -> Dataset:
    """Return noisy prototypes: each class is one random uint8 image, each sample that image plus uniform noise."""
    generator = derive(seed, "prototypes").numpy()
    prototypes = generator.integers(0, 192, (classes, channels, size, size))
    noise = derive(seed, "noise", split).numpy()
    labels = noise.integers(0, classes, n)
    raw = (prototypes[labels] + noise.integers(0, 64, (n, channels, size, size))).astype("uint8")
    names = tuple(str(index) for index in range(classes))
    return Dataset(f"synthetic/{split}", torch.from_numpy(raw), torch.from_numpy(labels), names, Preprocessing(1 / 255))


def probes(kind: str = "uniform", *, n: int, shape: tuple[int, ...], seed: int = 0) -> Dataset:
    """Return known inputs without labels, shape (n, channels, height, width).

    ``uniform`` draws 8-bit pixels, the inputs of HSPI's logit distributions (Zhang et al., ICML 2025); being
    integers, they are the same bits on every platform.

    Raises:
        UnknownName: another kind.
    """
    if kind != "uniform":
        raise unknown("probe kind", kind, ["uniform"])
    raw = derive(seed, "probes", kind).numpy().integers(0, 256, (n, *shape)).astype("uint8")
    labels = torch.full((n,), UNLABELLED)
    return Dataset(f"probes/{kind}", torch.from_numpy(raw), labels, (), Preprocessing(1 / 255))
