"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the official binary and python-pickle layouts."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from holdfast._files import read_bytes
from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsafeArtifact

_PIXELS = 3 * 32 * 32
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class _Layout:
    """File names of one data set, and where its labels stand."""

    folders: tuple[str, ...]
    binary: dict[str, tuple[str, ...]]
    pickled: dict[str, tuple[str, ...]]
    label_bytes: int  # per binary record; the last one is the label
    label_key: bytes
    classes: tuple[str, ...]


_TEN = _Layout(
    ("cifar-10-batches-bin", "cifar-10-batches-py"),
    {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    1,
    b"labels",
    _CIFAR10,
)
_HUNDRED = _Layout(
    ("cifar-100-binary", "cifar-100-python"),
    {"train": ("train.bin",), "test": ("test.bin",)},
    {"train": ("train",), "test": ("test",)},
    2,
    b"fine_labels",
    tuple(str(index) for index in range(100)),
)


@datasets.register("cifar10")
def cifar10(
    root: str, split: str = "test", mean: tuple[float, ...] = _IMAGENET_MEAN, std: tuple[float, ...] = _IMAGENET_STD
) -> Dataset:
    """Return CIFAR-10: uint8 (n, 3, 32, 32), normalised by ImageNet's mean and std unless told otherwise."""
    return _read("cifar10", _TEN, Path(root), split, Preprocessing(1 / 255, mean, std))


@datasets.register("cifar100")
def cifar100(
    root: str, split: str = "test", mean: tuple[float, ...] = _IMAGENET_MEAN, std: tuple[float, ...] = _IMAGENET_STD
) -> Dataset:
    """Return CIFAR-100 with its fine labels."""
    return _read("cifar100", _HUNDRED, Path(root), split, Preprocessing(1 / 255, mean, std))


def _read(name: str, layout: _Layout, root: Path, split: str, preprocessing: Preprocessing) -> Dataset:
    if split not in layout.binary:
        raise InvalidConfig(f"{name} has no split {split!r}", hint="train or test")
    for folder in (root, *(root / inner for inner in layout.folders)):
        for files, reader in ((layout.binary[split], _binary), (layout.pickled[split], _pickled)):
            if all((folder / file).is_file() for file in files):
                parts = [reader(folder / file, layout) for file in files]
                pixels = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
                labels = np.concatenate([part[1] for part in parts]).astype(np.int64)
                raw = torch.from_numpy(pixels)
                return Dataset(f"{name}/{split}", raw, torch.from_numpy(labels), layout.classes, preprocessing)
    hint = f"expected {layout.binary[split][0]} or {layout.pickled[split][0]} there"
    raise UnreadableArtifact(f"{root} holds no {name} {split} files", hint=hint)


def _binary(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    data = np.frombuffer(read_bytes(path, "CIFAR file"), dtype=np.uint8)
    record = layout.label_bytes + _PIXELS
    if data.size == 0 or data.size % record:
        raise UnreadableArtifact(f"{path} has {data.size} bytes, not a whole number of {record}-byte records")
    rows = data.reshape(-1, record)
    return rows[:, layout.label_bytes :].copy(), rows[:, layout.label_bytes - 1].copy()


def _pickled(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    value = _Restricted(read_bytes(path, "CIFAR file"), path).load_checked()
    pixels, labels = value.get(b"data"), value.get(layout.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise UnreadableArtifact(f"{path} holds no uint8 images of {_PIXELS} values")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise UnreadableArtifact(f"{path} has {len(pixels)} images and not as many labels")
    return pixels, np.array(labels)


class _Restricted(pickle.Unpickler):  # this class exists to refuse everything but arrays
    """Reads dictionaries, lists, numbers, text and numpy arrays; refuses every other global by name."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed constructor or raise :class:`UnsafeArtifact`."""
        if module == "_codecs" and name == "encode":
            return _encode_latin1
        if (module, name) not in self._ALLOWED:
            raise UnsafeArtifact(f"{self._path} would call {module}.{name} when opened", hint="use the binary version")
        return self._ALLOWED[module, name]

    def load_checked(self) -> dict[bytes, Any]:
        """Return the top-level dictionary."""
        try:
            value = self.load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise UnreadableArtifact(f"{self._path} is not a whole CIFAR pickle: {error}") from error
        if not isinstance(value, dict):
            raise UnreadableArtifact(f"{self._path} holds no dictionary")
        return value


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Rebuild bytes as protocol 2 stores them; no other codec is needed or allowed."""
    if encoding != "latin1":
        raise UnsafeArtifact(f"the pickle asks for the codec {encoding!r}")
    return text.encode("latin1")
