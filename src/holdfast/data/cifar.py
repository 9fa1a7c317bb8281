"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the official binary and python-pickle layouts."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from holdfast._files import read_bytes
from holdfast.data.catalogue import datasets
from holdfast.data.dataset import Dataset, Preprocessing, labels_within
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsafeArtifact

_PIXELS = 3 * 32 * 32
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
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
    tuple(_CIFAR100.split()),
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
    lacking: list[Path] = []
    for folder in (root, *(root / inner for inner in layout.folders)):
        for files, reader in ((layout.binary[split], _binary), (layout.pickled[split], _pickled)):
            missing = [folder / file for file in files if not (folder / file).is_file()]
            if not missing:
                parts = [reader(folder / file, layout) for file in files]
                raw = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32))
                labels = torch.cat([targets for _, targets in parts])
                return Dataset(f"{name}/{split}", raw, labels, layout.classes, preprocessing)
            lacking += missing if len(missing) < len(files) else []
    if lacking:
        raise UnreadableArtifact(f"{lacking[0]} is missing beside the other {name} {split} files")
    hint = f"expected {layout.binary[split][0]} or {layout.pickled[split][0]} there"
    raise UnreadableArtifact(f"{root} holds no {name} {split} files", hint=hint)


def _binary(path: Path, layout: _Layout) -> tuple[np.ndarray, Tensor]:
    data = np.frombuffer(read_bytes(path, "CIFAR file"), dtype=np.uint8)
    record = layout.label_bytes + _PIXELS
    if data.size == 0 or data.size % record:
        raise UnreadableArtifact(f"{path} has {data.size} bytes, not a whole number of {record}-byte records")
    rows = data.reshape(-1, record)
    labels = torch.from_numpy(rows[:, layout.label_bytes - 1].astype(np.int64))
    return rows[:, layout.label_bytes :].copy(), labels_within(labels, len(layout.classes), path)


def _pickled(path: Path, layout: _Layout) -> tuple[np.ndarray, Tensor]:
    value = _unpickled(read_bytes(path, "CIFAR file"), path)
    array, labels = value.get(b"data"), value.get(layout.label_key)
    pixels = array.pixels if isinstance(array, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or len(pixels) == 0:
        raise UnreadableArtifact(f"{path} holds no uint8 images of {_PIXELS} values")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise UnreadableArtifact(f"{path} has {len(pixels)} images and not as many labels")
    if not all(type(label) is int and abs(label) < 2**63 for label in labels):
        raise UnreadableArtifact(f"{path} has labels that are not whole numbers")
    return pixels, labels_within(torch.tensor(labels), len(layout.classes), path)


def _unpickled(data: bytes, path: Path) -> dict[bytes, Any]:
    """Return the dictionary of a python-version file; nothing in it is ever called."""
    try:
        for operation, argument, _ in pickletools.genops(data):
            # a memo slot beyond any the file could fill would only make the reader allocate
            if operation.name.endswith("PUT") and int(argument or 0) > len(data):
                raise UnreadableArtifact(f"{path} is not a whole CIFAR pickle")
        value = _Restricted(data, path).load()
    except _BROKEN as error:
        raise UnreadableArtifact(f"{path} is not a whole CIFAR pickle: {error or type(error).__name__}") from error
    if not isinstance(value, dict):
        raise UnreadableArtifact(f"{path} holds no dictionary")
    return value


_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Restricted(pickle.Unpickler):
    """Reads dictionaries, lists, numbers and text, and uint8 arrays into :class:`_Array`; refuses every other global.

    Not even numpy is called: its own constructors trust the sizes that a pickle names.
    """

    def __init__(self, data: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a global, or raise :class:`UnsafeArtifact`."""
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise UnsafeArtifact(f"{self._path} would call {module}.{name} when opened", hint="use the binary version")
        return stand_in


class _ElementType:
    """Stands in for ``numpy.dtype``: remembers the code, ignores the rest."""

    def __init__(self, code: object, *_: object) -> None:
        self.is_byte = code in (b"u1", "u1")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which one-byte elements do not have."""


class _Array:
    """Stands in for a numpy array: ``pixels`` is uint8 once its state has come and fits, else None."""

    pixels: np.ndarray | None = None

    def __init__(self, *_: object) -> None:
        """Ignore the empty array that numpy's pickles start from."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, bytes]) -> None:
        """Take (version, shape, element type, column order, bytes)."""
        _, shape, element, fortran, octets = state
        self._fill(shape, element, "F" if fortran else "C", octets)

    def _fill(self, shape: tuple[int, ...], element: object, order: Literal["C", "F"], octets: bytes) -> None:
        if not isinstance(element, _ElementType) or not element.is_byte or min(shape) < 0:
            return
        if math.prod(shape) != len(octets):
            raise ValueError(f"{len(octets)} bytes do not fill an array of {shape}")
        self.pixels = np.frombuffer(octets, np.uint8).reshape(shape, order=order).copy()


class _Buffered(_Array):
    """Stands in for numpy's array constructor of protocol 5."""

    def __init__(self, octets: bytes, element: object, shape: tuple[int, ...], order: Literal["C", "F"]) -> None:
        self._fill(shape, element, order, octets)


class _Latin1:
    """Stands in for ``codecs.encode``, by which protocol 2 stores bytes."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]  # a call that gives bytes
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"the codec {encoding!r} is not allowed")
        return text.encode("latin1")


# classes, never functions: a pickle can set attributes on what it is given, and on these it only reaches __setstate__
_STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _Buffered,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _ElementType,
    ("_codecs", "encode"): _Latin1,
}
