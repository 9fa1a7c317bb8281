"""A labelled set of images as stored, with the preprocessing that turns it into network inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from blake3 import blake3
from torch import Tensor

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.numerics import bits
from holdfast.seeds import derive

UNLABELLED = -1
_CONTEXT = "holdfast 2026 dataset v1"


@dataclass(frozen=True)
class Preprocessing:
    """Network input = (stored value * ``scale`` - ``mean``) / ``std``, per channel."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise InvalidConfig("preprocessing needs one mean and one positive std per channel")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise InvalidConfig("preprocessing needs finite numbers")
        object.__setattr__(self, "mean", tuple(self.mean))  # a list is welcome; what is kept cannot change
        object.__setattr__(self, "std", tuple(self.std))

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"scale": self.scale, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: object) -> Preprocessing:
        """Read the JSON form.

        Raises:
            UnreadableArtifact: a field that is missing, of another kind or none of its own; it is named.
        """
        if not isinstance(value, dict) or set(value) != {"scale", "mean", "std"}:
            raise UnreadableArtifact(f"{value!r:.100} is no preprocessing: scale, mean and std")
        for name, found in value.items():
            numbers = [found] if name == "scale" else found
            if not isinstance(numbers, list) or not all(type(number) in (int, float) for number in numbers):
                raise UnreadableArtifact(f"{name} of a preprocessing is {found!r:.100}")
        try:
            return cls(float(value["scale"]), tuple(map(float, value["mean"])), tuple(map(float, value["std"])))
        except (InvalidConfig, OverflowError) as error:
            raise UnreadableArtifact(f"{value!r:.100} is no preprocessing: {error}") from error


def labels_within(labels: Tensor, count: int, source: Path | str) -> Tensor:
    """Return int64 ``labels`` (n,) if all lie in 0 .. count-1.

    Raises:
        InvalidConfig: one does not; it, its position and ``source`` are named.
    """
    wrong = ((labels < 0) | (labels >= count)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise InvalidConfig(
            f"{source}: label {int(labels[place])} of item {place} is out of range",
            hint=f"labels run from 0 to {count - 1}",
        )
    return labels


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images, labels and their order; nothing is shuffled and nothing is converted until a batch is asked for.

    Attributes:
        raw: uint8 or float32 as stored, shape (n, channels, height, width).
        labels: int64, shape (n,), in 0 .. classes-1, or -1 throughout for probes.

    Raises:
        InvalidConfig: nothing in it, counts differ, a dtype other than these, a label out of range (its position is
            named), a NaN, or another number of means than channels.
    """

    name: str
    raw: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)

    def __repr__(self) -> str:
        """Say what it holds in one line, without the pixels."""
        size = "x".join(map(str, self.raw.shape[1:]))
        return f"<{type(self).__name__} {self.name!r}: {len(self)} images of {size}, {len(self.classes)} classes>"

    def __post_init__(self) -> None:
        self._check_pixels()
        self._check_labels()

    def _check_pixels(self) -> None:
        if self.raw.dim() != 4 or self.labels.dim() != 1 or len(self.raw) != len(self.labels):
            raise InvalidConfig(
                f"{self.name}: {tuple(self.raw.shape)} images do not fit {tuple(self.labels.shape)} labels"
            )
        if self.raw.numel() == 0:
            raise InvalidConfig(f"the dataset {self.name} is empty")
        if self.raw.dtype not in (torch.uint8, torch.float32):
            raise InvalidConfig(f"{self.name} holds {self.raw.dtype} pixels", hint="use uint8 as stored, or float32")
        if self.raw.is_floating_point() and not torch.isfinite(self.raw).all():
            raise InvalidConfig(f"{self.name} holds NaN or infinite pixels")
        if len(self.preprocessing.mean) not in (1, self.raw.shape[1]):
            raise InvalidConfig(
                f"{self.name} has {self.raw.shape[1]} channels and {len(self.preprocessing.mean)} means",
                hint="give one mean and std for all channels, or one each",
            )

    def _check_labels(self) -> None:
        if self.labels.dtype != torch.int64:
            raise InvalidConfig(f"{self.name} has {self.labels.dtype} labels, not int64")
        if self.classes:
            labels_within(self.labels, len(self.classes), self.name)
        elif (self.labels != UNLABELLED).any():
            raise InvalidConfig(f"{self.name} has labels and no classes", hint=f"unlabelled samples have {UNLABELLED}")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return (float32 images (b, c, h, w) ready for a network, int64 labels (b,)) at int64 ``indices``."""
        return self.inputs(self.raw[indices]), self.labels[indices]

    def inputs(self, raw: Tensor) -> Tensor:
        """Return images as stored, (b, c, h, w), as float32 network inputs."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.preprocessing.mean).view(shape).to(raw.device)
        std = torch.tensor(self.preprocessing.std).view(shape).to(raw.device)
        return (raw.float() * self.preprocessing.scale - mean) / std

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches in order; the last may be short."""
        if size < 1:
            raise InvalidConfig(f"a batch holds at least one sample, not {size}")
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return self.raw.device

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same samples on ``device``, which hands out batches there; the digest stays."""
        return replace(self, raw=self.raw.to(device), labels=self.labels.to(device))

    def all(self) -> tuple[Tensor, Tensor]:
        """Return everything as one batch."""
        return self.batch(torch.arange(len(self)))

    @property
    def example(self) -> Tensor:
        """The first sample as a network input, shape (c, h, w)."""
        return self.batch(torch.tensor([0]))[0][0]

    def subset(self, indices: Tensor | Sequence[int]) -> Dataset:
        """Return the samples at ``indices`` (0 .. n-1), in that order.

        Raises:
            InvalidConfig: an index out of range, or no indices at all.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if ((chosen < 0) | (chosen >= len(self))).any():
            raise InvalidConfig(f"{self.name} has samples 0 .. {len(self) - 1} and no others")
        return replace(self, raw=self.raw[chosen], labels=self.labels[chosen])

    def take(self, count: int) -> Dataset:
        """Return the first ``count`` samples (all, if there are fewer)."""
        return self.subset(torch.arange(max(0, min(count, len(self)))))

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Return two disjoint parts, the first with ``fraction`` of the samples, drawn from ``seed``."""
        if not 0 < fraction < 1:
            raise InvalidConfig(f"a split fraction lies between 0 and 1, not {fraction}")
        order = torch.from_numpy(derive(seed, "split").numpy().permutation(len(self)))
        first = round(fraction * len(self))
        return self.subset(order[:first].sort().values), self.subset(order[first:].sort().values)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) binding pixels, labels, their order, shape, dtype, classes and preprocessing."""
        head = {
            "dtype": str(self.raw.dtype).removeprefix("torch."),
            "shape": list(self.raw.shape),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_json(),
        }
        hasher = blake3(derive_key_context=_CONTEXT)
        for part in (canonical.dumps(head), _octets(self.labels), _octets(self.raw)):
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
        return hasher.hexdigest()


def _octets(tensor: Tensor) -> memoryview:
    return bits.int_view(tensor.cpu().contiguous()).view(torch.uint8).reshape(-1).numpy().data
