"""The default search: bisection to a class boundary, then an integer search on the pixel lattice around it.

Sign-PGD (``pgd.py``) moves every pixel in every step, so it walks over the slab between two decision boundaries, which
for two fp32 stacks is some 1e-7 thick. Here the boundary is crossed between two neighbouring images, and the gap that
is left is cancelled by sums of single pixel steps, each checked on both platforms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.identification.border.bisection import Crossing, bisect
from holdfast.identification.border.found import Found
from holdfast.identification.border.gap import Answers
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.oracle import Oracle, in_full_batches
from holdfast.identification.border.steps import Steps
from holdfast.seeds import Seed, derive

_ALIKE = 2  # steps whose candidates all gave the same bits on both platforms: there is nothing to find there


@dataclass(frozen=True, slots=True, kw_only=True)
class LatticeSearch:
    """Bisection and gradient-guided steps of single pixels.

    Args:
        candidates: images that are checked in one step, on both platforms.
        steps: steps from one crossing before the next is tried.
        polish: further steps once a border input is found, for a larger margin.
        attempts: crossings that are tried.
    """

    candidates: int = 32
    steps: int = 12
    polish: int = 2
    attempts: int = 8

    def __post_init__(self) -> None:
        if min(self.candidates, self.steps, self.attempts) < 1 or self.polish < 0:
            raise InvalidConfig("a search makes at least one step with one candidate", hint="polish may be 0")

    def search(self, oracles: Sequence[Oracle], model: nn.Module, data: Dataset, seed: Seed | int) -> Iterator[Found]:
        """Yield border inputs, at most one from each crossing; the caller checks them and takes what holds.

        Args:
            oracles: the first two are the platforms to separate.
            model: gives gradients; a net like the one behind the platforms.
            data: images of several classes to start from.
        """
        lattice, asked = Lattice.of(data), 0
        fillers = lattice.noise(1, seed)
        for number, (start, end) in enumerate(_starts(data, self.attempts, seed)):
            ask = _Ask((oracles[0], oracles[1]), fillers)
            crossing = bisect(ask.first_label, start, end)
            found = None
            if crossing is not None:
                found = self._close(ask, crossing, model, lattice, derive(seed, "crossing", number))
            asked += ask.count
            if found is not None:
                yield replace(found, evaluations=asked)

    def _close(self, ask: _Ask, crossing: Crossing, model: nn.Module, lattice: Lattice, seed: Seed) -> Found | None:
        """Walk to the image with the smallest gap until the platforms part, then for the best margin around there."""
        generator, image, best, left = seed.numpy(), crossing.near, None, self.steps
        classes = crossing.label, crossing.other
        gap, alike = float(ask(image[None]).gap(*classes)[0]), 0
        while left > 0 and alike < _ALIKE:
            gradient = gap_gradient(model, lattice, image, *classes)
            tried = Steps.of(image, gradient, lattice.top).candidates(image, gap, self.candidates, generator)
            if not len(tried):
                break
            answers = ask(tried)
            alike += torch.equal(answers.first, answers.second)
            better = _best(tried, answers)
            if better is not None and best is None:
                left = self.polish + 1
            if better is not None and (best is None or better.margin > best.margin):
                best = better
            gaps = answers.gap(*classes)
            place = int(gaps.abs().argmin())
            if abs(float(gaps[place])) < abs(gap) or best is None:
                image, gap = tried[place], float(gaps[place])
            left -= 1
        return best


def gap_gradient(model: nn.Module, lattice: Lattice, image: Tensor, above: int, below: int) -> Tensor:
    """Return how the gap between two outputs changes with each pixel (c, h, w), per level."""
    pixels = image[None].float().requires_grad_()
    with torch.enable_grad():
        output = model(lattice.inputs(pixels))
        (gradient,) = torch.autograd.grad(output[0, above] - output[0, below], pixels)
    return gradient[0].detach()


class _Ask:
    """Asks both platforms of a pair, in full batches, and counts."""

    def __init__(self, pair: tuple[Oracle, Oracle], fillers: Tensor) -> None:
        self.pair, self.fillers, self.count = pair, fillers, 0

    def first_label(self, images: Tensor) -> Tensor:
        """Return the labels of the first platform alone: where a boundary runs, both agree to far less than a pixel."""
        self.count += len(images)
        return in_full_batches(self.pair[0], images, self.fillers).argmax(1)

    def __call__(self, images: Tensor) -> Answers:
        self.count += len(images)
        first, second = (in_full_batches(oracle, images, self.fillers) for oracle in self.pair)
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
