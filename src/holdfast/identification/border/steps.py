"""Which pixels to move by one so that a gap closes: measured effects as the weights of a subset-sum problem.

A step of one pixel changes the gap between two classes by an amount that the gradient predicts badly (on a trained
ResNet-20 the error is as large as the effect of most pixels, since every step crosses some ReLU). Measured effects,
however, nearly add up where pixels lie apart. So a hundred or so steps are measured, one pass each, and those pairs and
triples are tried whose effects cancel the gap and whose pixels disturb each other least. No gradient is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

_DISTURBANCE = 0.05  # pairs of steps disturb each other by about this share of their size, over their distance
_SPARE = 8  # times as many sums as candidates are looked at, for want of those that come twice


@dataclass(frozen=True)
class Steps:
    """Single steps of an image and what each does to its gap.

    Attributes:
        image: uint8 (c, h, w).
        pixel: flat position of each step; no pixel twice.
        direction: +1 or -1.
        effect: measured change of the gap; zeros before it is.
    """

    image: Tensor
    pixel: np.ndarray
    direction: np.ndarray
    effect: np.ndarray

    @classmethod
    def drawn(cls, image: Tensor, top: int, count: int, generator: np.random.Generator) -> Steps:
        """Draw up to ``count`` steps of ``image`` that stay within 0..top."""
        flat = image.flatten().int().numpy()
        pixel = generator.choice(len(flat), min(count, len(flat)), replace=False)
        chance = generator.choice(np.array([-1, 1]), len(pixel))
        direction = np.where(flat[pixel] >= top, -1, np.where(flat[pixel] <= 0, 1, chance))
        return cls(image, pixel, direction, np.zeros(len(pixel)))

    @property
    def images(self) -> Tensor:
        """The image after each step alone (n, c, h, w)."""
        return self._moved(np.arange(len(self.pixel))[:, None])

    def measured(self, effect: np.ndarray) -> Steps:
        """Return the steps that do something, with their effects, in rising order."""
        order = np.argsort(effect, kind="stable")
        order = order[effect[order] != 0]
        return replace(self, pixel=self.pixel[order], direction=self.direction[order], effect=effect[order])

    def candidates(self, gap: float, count: int) -> Tensor:
        """Return up to ``count`` images (n, c, h, w), two or three steps away, whose gap should be nearest to zero."""
        if len(self.effect) < 2:
            return self.image.new_empty((0, *self.image.shape))
        chosen = self._sums(gap)
        cost = np.abs(gap + self._effects(chosen).sum(1)) + self._disturbance(chosen)
        best = chosen[np.argsort(cost, kind="stable")[: _SPARE * count]]
        distinct, first = np.unique(np.sort(best, axis=1), axis=0, return_index=True)
        return self._moved(distinct[np.argsort(first, kind="stable")][:count])

    def _sums(self, gap: float) -> np.ndarray:
        """Return pairs, and pairs with the third step that closes the gap best, as rows of places; -1 is no step."""
        one, two = np.triu_indices(len(self.effect), 1)
        wanted = -(gap + self.effect[one] + self.effect[two])
        after = np.searchsorted(self.effect, wanted).clip(1, len(self.effect) - 1)
        nearer = np.abs(self.effect[after - 1] - wanted) < np.abs(self.effect[after] - wanted)
        third = np.where(nearer, after - 1, after)
        free = (third != one) & (third != two)
        triples = np.stack((one, two, third), 1)[free]
        return np.concatenate((triples, np.stack((one, two, np.full(len(one), -1)), 1)))

    def _effects(self, chosen: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.where(chosen >= 0, self.effect[chosen], 0.0)
        return found

    def _disturbance(self, chosen: np.ndarray) -> np.ndarray:
        """Guess by how much the effects of steps fail to add up: the more, the larger and closer they are."""
        height, width = self.image.shape[1:]
        row, column = self.pixel % (height * width) // width, self.pixel % width
        size, total = np.abs(self._effects(chosen)), np.zeros(len(chosen))
        for a, b in ((0, 1), (0, 2), (1, 2)):
            one, two = chosen[:, a], chosen[:, b]
            apart = np.hypot(row[one] - row[two], column[one] - column[two])
            total += np.sqrt(size[:, a] * size[:, b]) / (1 + apart)
        return _DISTURBANCE * total

    def _moved(self, chosen: np.ndarray) -> Tensor:
        rows = self.image.flatten().int().repeat(len(chosen), 1)
        for row, places in zip(rows, chosen, strict=True):
            kept = places[places >= 0]
            row[torch.from_numpy(self.pixel[kept])] += torch.from_numpy(self.direction[kept]).int()
        return rows.view(-1, *self.image.shape).to(torch.uint8)
