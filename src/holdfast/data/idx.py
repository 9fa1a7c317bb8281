"""MNIST and its kin in the idx format (LeCun): a big-endian header, then bytes; plain or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from holdfast._files import read_bytes
from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing, labels_within
from holdfast.errors import InvalidConfig, UnreadableArtifact

_STEMS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 8  # the format's code of this element type
_MOST_INFLATION = 1032  # deflate's own limit, bytes out per byte in


@datasets.register("mnist")
def mnist(
    root: str, split: str = "test", mean: tuple[float, ...] = (0.1307,), std: tuple[float, ...] = (0.3081,)
) -> Dataset:
    """Return MNIST from the four official files in ``root``: uint8 (n, 1, 28, 28)."""
    if split not in _STEMS:
        raise InvalidConfig(f"mnist has no split {split!r}", hint="train or test")
    image_file, label_file = (
        _find(Path(root), f"{_STEMS[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = read_idx(image_file, dimensions=3), read_idx(label_file, dimensions=1)
    if len(images) != len(labels) or images.size == 0:
        raise UnreadableArtifact(f"{image_file} has {len(images)} images, {label_file.name} {len(labels)} labels")
    names = tuple("0123456789")
    targets = labels_within(torch.from_numpy(labels).to(torch.int64), len(names), label_file)
    raw = torch.from_numpy(images).unsqueeze(1)
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
    head = 4 + 4 * dimensions
    try:
        with gzip.open(io.BytesIO(data)) if str(path).endswith(".gz") else io.BytesIO(data) as stream:
            shape = _shape(stream.read(head), dimensions, path)
            expected = math.prod(shape)
            # one more than expected, to see excess; never more than the file could hold, whatever the header says
            content = stream.read(min(expected, len(data) * _MOST_INFLATION) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableArtifact(f"{path} is not a whole gzip file: {error}") from error
    if len(content) != expected:
        count = "more" if len(content) > expected else str(len(content))
        raise UnreadableArtifact(f"{path} holds {count} values, its header says {expected}")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def _shape(head: bytes, dimensions: int, path: Path | str) -> tuple[int, ...]:
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)):
        raise UnreadableArtifact(f"{path} is no idx file of {dimensions}-dimensional unsigned bytes")
    return struct.unpack(f">{dimensions}I", head[4:])
