"""Random changes of training images: whole batches at once, every choice drawn from one seed.

An augmentation takes network inputs, float (n, channels, height, width), and a :class:`~holdfast.seeds.Seed`, and
returns the same shape. All draws come from that seed on the CPU, so every device makes the same choices.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from holdfast._registry import Registry, parse_spec
from holdfast.data.dataset import Dataset
from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed, derive

_CHUNK = 4096  # images


class Augmentation(Protocol):
    """Anything callable as ``augment(images, seed) -> images``."""

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        """Return a changed copy of network inputs (n, channels, height, width); the same seed gives the same copy."""
        ...


@runtime_checkable
class DrawnApart(Augmentation, Protocol):
    """An augmentation that first draws for each image and then changes all: batches can be changed together."""

    def draw(self, count: int, shape: tuple[int, ...], seed: Seed) -> tuple[Tensor, ...]:
        """Return what is drawn for ``count`` images of ``shape`` (channels, height, width), row by row, on the CPU."""
        ...

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """Return changed images; row i of each tensor drawn belongs to image i."""
        ...


def together(
    change: Callable[[Tensor, Seed], Tensor], images: Tensor, sizes: Sequence[int], seeds: Sequence[Seed]
) -> Tensor:
    """Return what ``change`` makes of several batches, each with its own seed: the same images, in fewer launches.

    Args:
        change: an augmentation of the package, or any other, which is then called for each batch.
        images: the batches one after the other, network inputs (n, channels, height, width).
        sizes: images of each batch.
        seeds: of each batch.
    """
    if isinstance(change, Chain):
        for place, step in enumerate(change.steps):
            images = together(step, images, sizes, [derive(seed, "augment", place) for seed in seeds])
        return images
    if isinstance(change, DrawnApart):
        drawn = [change.draw(size, tuple(images.shape[1:]), seed) for size, seed in zip(sizes, seeds, strict=True)]
        return change.apply(images, *(torch.cat(parts) for parts in zip(*drawn, strict=True)))
    parts = zip(images.split(list(sizes)), seeds, strict=True)
    return torch.cat([change(part, seed) for part, seed in parts])


augmentations: Registry[Augmentation] = Registry("augmentation", "holdfast.augmentations")


@dataclass(frozen=True)
class Chain:
    """Augmentations one after another, each with a stream of its own."""

    steps: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        """Return ``images`` after all steps, in order."""
        for place, step in enumerate(self.steps):
            images = step(images, derive(seed, "augment", place))
        return images


def augmentation(specs: Sequence[str], data: Dataset) -> Chain:
    """Return the augmentations ``specs``, fitted to ``data``.

    What a step cannot see in a batch comes from the data set: empty space is filled with its mean colour, and
    AutoAugment undoes its preprocessing to work on pixels.

    Args:
        specs: for example ``["crop:padding=4", "flip", "auto-augment", "cutout:size=16"]``.
        data: the training set.

    Raises:
        UnknownName: no such augmentation.
        InvalidConfig: an option that it does not take, or a value out of range.
    """
    known = {"fill": mean_colour(data), "preprocessing": data.preprocessing}
    steps = []
    for spec in specs:
        taken = inspect.signature(augmentations.get(parse_spec(spec)[0])).parameters
        steps.append(augmentations.build(spec, **{key: value for key, value in known.items() if key in taken}))
    return Chain(tuple(steps))


def channel_statistics(data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, in units of ``raw * preprocessing.scale``."""
    total, squares = torch.zeros(data.raw.shape[1]).double(), torch.zeros(data.raw.shape[1]).double()
    for part in data.raw.split(_CHUNK):
        pixels = part.double() * data.preprocessing.scale
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    count = data.raw.numel() / data.raw.shape[1]
    mean = total / count
    return tuple(mean.tolist()), tuple((squares / count - mean.square()).clamp(min=0).sqrt().tolist())


def mean_colour(data: Dataset) -> tuple[float, ...]:
    """Return the mean of each channel as a network input; zero when ``data`` is normalised by its own mean."""
    mean, preprocessing = torch.tensor(channel_statistics(data)[0]), data.preprocessing
    inputs = (mean - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    return tuple(inputs.tolist())


def filled(images: Tensor, fill: tuple[float, ...]) -> Tensor:
    """Return ``fill`` as (1, channels, 1, 1), to broadcast over ``images``.

    Raises:
        InvalidConfig: neither one value nor one for each channel.
    """
    if len(fill) not in (1, images.shape[1]):
        raise InvalidConfig(f"{len(fill)} fill values do not suit {images.shape[1]} channels", hint="one, or one each")
    return torch.tensor(fill, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)


@augmentations.register("crop")
@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A window of the image's own size, anywhere on the image with ``padding`` pixels of ``fill`` around it."""

    padding: int = 4  # pixels
    fill: tuple[float, ...] = (0.0,)  # network input, one or one per channel

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise InvalidConfig(f"a crop moves by at least one pixel of padding, not {self.padding}")

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        """Return each image moved by up to ``padding`` pixels along both axes."""
        return self.apply(images, *self.draw(len(images), tuple(images.shape[1:]), seed))

    def draw(self, count: int, shape: tuple[int, ...], seed: Seed) -> tuple[Tensor, ...]:
        """Return the upper left corner of each window, int64 (count, 2)."""
        return (torch.randint(2 * self.padding + 1, (2, count), generator=seed.torch()).t(),)

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """Return the changed images."""
        count, channels, height, width = images.shape
        span = 2 * self.padding
        corner = drawn[0].t().to(images.device)
        canvas = filled(images, self.fill).expand(count, channels, height + span, width + span).clone()
        canvas[:, :, self.padding : self.padding + height, self.padding : self.padding + width] = images
        windows = canvas.unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(count, device=images.device), :, corner[0], corner[1]]


@augmentations.register("flip")
@dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """The mirror image, left for right."""

    probability: float = 0.5  # of each image

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InvalidConfig(f"a probability lies between 0 and 1, not {self.probability}")

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        """Return each image as it is or mirrored."""
        return self.apply(images, *self.draw(len(images), tuple(images.shape[1:]), seed))

    def draw(self, count: int, shape: tuple[int, ...], seed: Seed) -> tuple[Tensor, ...]:
        """Return which images are mirrored, bool (count,)."""
        return (torch.rand(count, generator=seed.torch()) < self.probability,)

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """Return the changed images."""
        return torch.where(drawn[0].to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


@augmentations.register("cutout")
@dataclass(frozen=True, kw_only=True)
class Cutout:
    """One square of ``fill`` (DeVries & Taylor, 2017); its centre is any pixel, so part of it may lie outside."""

    size: int = 16  # pixels, side of the square
    fill: tuple[float, ...] = (0.0,)  # network input, one or one per channel

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidConfig(f"cutout takes a square of at least one pixel, not {self.size}")

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        """Return each image with its square blanked."""
        return self.apply(images, *self.draw(len(images), tuple(images.shape[1:]), seed))

    def draw(self, count: int, shape: tuple[int, ...], seed: Seed) -> tuple[Tensor, ...]:
        """Return which rows and columns each square covers, bool (count, side) each."""
        generator = seed.torch()
        return tuple(self._covered(count, side, generator) for side in shape[1:])

    def apply(self, images: Tensor, *drawn: Tensor) -> Tensor:
        """Return the changed images."""
        rows, columns = drawn
        hole = (rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)
        return torch.where(hole, filled(images, self.fill), images)

    def _covered(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Return which of ``side`` rows or columns each square covers, bool (count, side)."""
        first = torch.randint(side, (count, 1), generator=generator) - self.size // 2
        place = torch.arange(side)
        return (first <= place) & (place < first + self.size)
