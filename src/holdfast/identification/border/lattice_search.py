"""The default search: bisection to a class boundary, then an integer search on the pixel lattice around it.

Sign-PGD (``pgd.py``) moves every pixel in every step, so it walks over the slab between two decision boundaries, which
for two fp32 stacks is some 1e-6 of an output thick. Here the boundary is crossed between two neighbouring images, the
effects of single pixel steps are measured there, and the gap that is left is cancelled by sums of them, each checked on
both platforms. The search needs outputs only, no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.identification.border.asking import Oracle, in_full_batches
from holdfast.identification.border.bisection import Crossing, bisect
from holdfast.identification.border.found import Found
from holdfast.identification.border.gap import Answers
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.steps import Steps
from holdfast.seeds import Seed, derive

_ALIKE = 2  # crossings around which all candidates gave the same bits on both platforms: there is nothing to find


@dataclass(frozen=True, slots=True, kw_only=True)
class LatticeSearch:
    """Bisection, and sums of measured steps of single pixels.

    Args:
        measured: steps of single pixels whose effect is measured, on the first platform: let it be the quicker one.
        candidates: images that are checked in one round, on both platforms.
        rounds: rounds from one crossing before the next is tried.
        polish: further rounds once a border input is found, for a larger margin.
        attempts: crossings that are tried.
    """

    measured: int = 128
    candidates: int = 32
    rounds: int = 6
    polish: int = 1
    attempts: int = 8

    def __post_init__(self) -> None:
        if min(self.candidates, self.rounds, self.attempts) < 1 or self.measured < 2 or self.polish < 0:
            raise InvalidConfig("a search measures two steps and makes one round at least", hint="polish may be 0")

    def search(self, oracles: Sequence[Oracle], model: nn.Module, data: Dataset, seed: Seed | int) -> Iterator[Found]:
        """Yield border inputs, at most one from each crossing; the caller checks them and takes what holds.

        Args:
            oracles: the first two are the platforms to separate.
            model: not needed here: outputs are enough.
            data: images of several classes to start from.
        """
        lattice, asked, alike = Lattice.of(data), 0, 0
        fillers = lattice.noise(1, seed)
        for number, (start, end) in enumerate(_starts(data, self.attempts, seed)):
            ask = _Ask((oracles[0], oracles[1]), fillers)
            crossing = bisect(ask.first_label, start, end)
            found = None
            if crossing is not None:
                found = self._close(ask, crossing, lattice, derive(seed, "crossing", number))
            asked += ask.count
            if found is not None:
                yield replace(found, evaluations=asked)
            alike += crossing is not None and not ask.parted
            if alike == _ALIKE:
                return

    def _close(self, ask: _Ask, crossing: Crossing, lattice: Lattice, seed: Seed) -> Found | None:
        """Walk to the image with the smallest gap until the platforms part, then for the best margin around there."""
        generator, best, left = seed.numpy(), None, self.rounds
        here = _Place.of(crossing.near, ask(crossing.near[None]), (crossing.label, crossing.other))
        while left > 0:
            steps = Steps.drawn(here.image, lattice.top, self.measured, generator)
            tried = steps.measured(here.effects(ask.first(steps.images))).candidates(here.gap, self.candidates)
            if not len(tried):
                break
            answers = ask(tried)
            better = _best(tried, answers)
            if better is not None and best is None:
                left = self.polish + 1
            if better is not None and (best is None or better.margin > best.margin):
                best = better
            here = here.nearest(tried, answers)
            left = left - 1 if ask.parted else 0
        return best


@dataclass(frozen=True)
class _Place:
    """Where the search stands.

    Attributes:
        image: uint8 (c, h, w).
        classes: whose outputs are to meet.
        gap: between them, the mean over both platforms.
        first: between them, on the first platform.
    """

    image: Tensor
    classes: tuple[int, int]
    gap: float
    first: float

    @classmethod
    def of(cls, image: Tensor, answers: Answers, classes: tuple[int, int], place: int = 0) -> _Place:
        first = float(_difference(answers.first, classes)[place])
        return cls(image, classes, float(answers.gap(*classes)[place]), first)

    def effects(self, outputs: Tensor) -> np.ndarray:
        """Return how the gap differs from the one here, of outputs (n, classes) of the first platform."""
        return (_difference(outputs, self.classes) - self.first).numpy()

    def nearest(self, images: Tensor, answers: Answers) -> _Place:
        """Return the place with the smallest gap among images and this one."""
        place = int(answers.gap(*self.classes).abs().argmin())
        other = _Place.of(images[place], answers, self.classes, place)
        return other if abs(other.gap) < abs(self.gap) else self


def _difference(outputs: Tensor, classes: tuple[int, int]) -> Tensor:
    return outputs[:, classes[0]].double() - outputs[:, classes[1]].double()


class _Ask:
    """Asks both platforms of a pair, in full batches, counts, and notices whether they ever part by a bit."""

    def __init__(self, pair: tuple[Oracle, Oracle], fillers: Tensor) -> None:
        self.pair, self.fillers, self.count, self.parted = pair, fillers, 0, False

    def first(self, images: Tensor) -> Tensor:
        """Return the outputs of the first platform alone: both agree to far less than one step of a pixel does."""
        self.count += len(images)
        return in_full_batches(self.pair[0], images, self.fillers)

    def first_label(self, images: Tensor) -> Tensor:
        """Return the labels of the first platform alone."""
        return self.first(images).argmax(1)

    def __call__(self, images: Tensor) -> Answers:
        self.count += len(images)
        first, second = (in_full_batches(oracle, images, self.fillers) for oracle in self.pair)
        self.parted |= not torch.equal(first, second)
        return Answers(first, second)


def _best(images: Tensor, answers: Answers) -> Found | None:
    border = answers.is_border()
    if not border.any():
        return None
    place = int(answers.margin.where(border, -1.0).argmax())
    one, two = (int(labels[place]) for labels in answers.labels)
    return Found(images[place], (one, two), float(answers.margin[place]), 0)


def _starts(data: Dataset, count: int, seed: Seed | int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of images, of different labels where the data has labels."""
    generator = derive(seed, "border", "starts").numpy()
    for _ in range(count):
        first = int(generator.integers(len(data)))
        others = (data.labels != data.labels[first]).nonzero().flatten()
        if not len(others):
            others = torch.tensor([index for index in range(len(data)) if index != first] or [first])
        yield data.raw[first], data.raw[int(others[int(generator.integers(len(others)))])]
