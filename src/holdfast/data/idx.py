"""MNIST and its kin in the idx format (LeCun): a big-endian header, then bytes; plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from holdfast._files import read_bytes
from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing
from holdfast.errors import InvalidConfig, UnreadableArtifact

_STEMS = {"train": "train", "test": "t10k"}


@datasets.register("mnist")
def mnist(
    root: str, split: str = "test", mean: tuple[float, ...] = (0.1307,), std: tuple[float, ...] = (0.3081,)
) -> Dataset:
    """Return MNIST from the four official files in ``root``: uint8 (n, 1, 28, 28)."""
    if split not in _STEMS:
        raise InvalidConfig(f"mnist has no split {split!r}", hint="train or test")
    stem = _STEMS[split]
    images = read_idx(_find(Path(root), f"{stem}-images-idx3-ubyte"), dimensions=3)
    labels = read_idx(_find(Path(root), f"{stem}-labels-idx1-ubyte"), dimensions=1)
    names = tuple("0123456789")
    raw, targets = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).to(torch.int64)
    return Dataset(f"mnist/{split}", raw, targets, names, Preprocessing(1 / 255, mean, std))


def _find(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise UnreadableArtifact(f"{root} holds neither {name} nor {name}.gz")


def read_idx(path: Path | str, *, dimensions: int) -> np.ndarray:
    """Return an idx file of unsigned bytes as a uint8 array.

    Raises:
        UnreadableArtifact: another element type or number of dimensions, or a length other than the header's.
    """
    data = read_bytes(path, "idx file")
    if str(path).endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UnreadableArtifact(f"{path} is not a whole gzip file: {error}") from error
    head = 4 + 4 * dimensions
    if len(data) < head or data[:4] != bytes((0, 0, 8, dimensions)):
        raise UnreadableArtifact(f"{path} is no idx file of {dimensions}-dimensional unsigned bytes")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise UnreadableArtifact(f"{path} holds {len(data) - head} values, its header says {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape).copy()
