"""Probes: known inputs without labels, by which platforms are told apart."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from holdfast._registry import unknown
from holdfast.data.dataset import UNLABELLED, Dataset, Preprocessing
from holdfast.errors import InvalidConfig
from holdfast.seeds import derive

_LABEL = 8  # bytes of the label that each image has, though it says nothing
_PIECE = 1 << 20


def probes(kind: str = "uniform", *, n: int, shape: tuple[int, ...], seed: int = 0) -> Dataset:
    """Return known inputs without labels, shape (n, channels, height, width).

    ``uniform`` draws 8-bit pixels, the inputs of HSPI's logit distributions (Zhang et al., ICML 2025); being
    integers, they are the same bits on every platform.

    Raises:
        UnknownName: another kind.
        InvalidConfig: fewer than one probe, a shape other than (channels, height, width), or more than memory holds.
    """
    if kind != "uniform":
        raise unknown("probe kind", kind, ["uniform"])
    require_room(n, shape)
    labels = torch.full((n,), UNLABELLED)
    return Dataset(f"probes/{kind}", torch.from_numpy(_drawn(n, shape, seed)), labels, (), Preprocessing(1 / 255))


def require_room(n: int, shape: tuple[int, ...]) -> None:
    """Raise :class:`InvalidConfig` unless ``n`` images of ``shape`` can be made and fit into half of the memory."""
    if n < 1 or len(shape) != 3 or min(shape) < 1:
        raise InvalidConfig(
            f"{n} probes of shape {tuple(shape)} cannot be made", hint="shape=(channels, height, width)"
        )
    needed, room = n * (math.prod(shape) + _LABEL), memory() // 2
    if needed > room:
        raise InvalidConfig(
            f"{n} probes of shape {tuple(shape)} take {needed / 2**30:,.1f} GiB, and half of the memory here is "
            f"{room / 2**30:,.1f} GiB",
            hint="64 inputs of the model's own shape are enough to tell platforms apart",
        )


def memory() -> int:
    """Return the bytes of memory of this machine, or of the control group that this process is held to."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such group, or one with the word "max" in it
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def _drawn(n: int, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.uint8]:
    """Draw in pieces: a draw is of 64-bit numbers, eight times what is kept, and its pieces are those of the whole."""
    generator = derive(seed, "probes", "uniform").numpy()
    raw = np.empty(n * math.prod(shape), dtype=np.uint8)
    for start in range(0, len(raw), _PIECE):
        part = raw[start : start + _PIECE]
        part[:] = generator.integers(0, 256, len(part))
    return raw.reshape(n, *shape)
