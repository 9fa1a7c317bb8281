"""Probes: known inputs without labels, by which platforms are told apart."""

from __future__ import annotations

import torch

from holdfast._registry import unknown
from holdfast.data.dataset import UNLABELLED, Dataset, Preprocessing
from holdfast.errors import InvalidConfig
from holdfast.seeds import derive


def probes(kind: str = "uniform", *, n: int, shape: tuple[int, ...], seed: int = 0) -> Dataset:
    """Return known inputs without labels, shape (n, channels, height, width).

    ``uniform`` draws 8-bit pixels, the inputs of HSPI's logit distributions (Zhang et al., ICML 2025); being
    integers, they are the same bits on every platform.

    Raises:
        UnknownName: another kind.
        InvalidConfig: fewer than one probe, or a shape other than (channels, height, width).
    """
    if kind != "uniform":
        raise unknown("probe kind", kind, ["uniform"])
    if n < 1 or len(shape) != 3 or min(shape) < 1:
        raise InvalidConfig(
            f"{n} probes of shape {tuple(shape)} cannot be made", hint="shape=(channels, height, width)"
        )
    raw = derive(seed, "probes", kind).numpy().integers(0, 256, (n, *shape)).astype("uint8")
    labels = torch.full((n,), UNLABELLED)
    return Dataset(f"probes/{kind}", torch.from_numpy(raw), labels, (), Preprocessing(1 / 255))
