"""Which pixels to move by one so that a gap closes: the gradient as the weights of a subset-sum problem.

A pixel step changes the gap between two classes by about its gradient. A net has thousands of pixels, so the sums of
three or four of their steps lie far closer together than any single one: sums that cancel the gap are drawn at random
but for their last step, which is looked up in the sorted list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DRAWS = 4096  # sums that are drawn for one batch of candidates


@dataclass(frozen=True)
class Steps:
    """All single steps of an image and what each is predicted to do to its gap.

    Attributes:
        pixel: flat position of each step.
        direction: +1 or -1.
        effect: predicted change of the gap, sorted in rising order.
    """

    pixel: np.ndarray
    direction: np.ndarray
    effect: np.ndarray

    @classmethod
    def of(cls, image: Tensor, gradient: Tensor, top: int) -> Steps:
        """List the steps of ``image`` (uint8) that stay within 0..top; ``gradient`` is per pixel level."""
        flat, slope = image.flatten().int().numpy(), gradient.flatten().double().numpy()
        up, down = np.flatnonzero(flat < top), np.flatnonzero(flat > 0)
        pixel = np.concatenate((up, down))
        direction = np.concatenate((np.ones(len(up), np.int64), -np.ones(len(down), np.int64)))
        effect = np.concatenate((slope[up], -slope[down]))
        useful = effect != 0
        order = np.argsort(effect[useful], kind="stable")
        return cls(pixel[useful][order], direction[useful][order], effect[useful][order])

    def candidates(self, image: Tensor, gap: float, count: int, generator: np.random.Generator) -> Tensor:
        """Return up to ``count`` images (n, c, h, w) whose gap is predicted to be nearest to zero."""
        if not len(self.effect):
            return image.new_empty((0, *image.shape))
        towards = self._towards(gap)
        rest = gap + float(self.effect[towards].sum())
        drawn = generator.integers(0, len(self.effect), (_DRAWS, 3))
        used = generator.integers(0, 4, _DRAWS)[:, None] > np.arange(3)  # 0 to 3 steps besides the last
        partial = rest + (self.effect[drawn] * used).sum(1)
        last = self._closing(-partial)
        missed = np.abs(partial + self.effect[last])
        return self._distinct(image, towards, drawn, used, last, np.argsort(missed, kind="stable"), count)

    def _towards(self, gap: float) -> np.ndarray:
        """Return the largest steps against the gap, as many as bring it within reach of one step."""
        order = np.arange(len(self.effect)) if gap > 0 else np.arange(len(self.effect))[::-1]
        against = order[np.sign(self.effect[order]) == -np.sign(gap)]
        against = against[np.unique(self.pixel[against], return_index=True)[1]]
        against = against[np.argsort(-np.abs(self.effect[against]), kind="stable")]
        reached = np.cumsum(np.abs(self.effect[against]))
        taken: np.ndarray = against[: int(np.searchsorted(reached, abs(gap)))]
        return taken

    def _closing(self, wanted: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self.effect, wanted).clip(1, max(1, len(self.effect) - 1))
        place = np.minimum(place, len(self.effect) - 1)
        before = np.maximum(place - 1, 0)
        nearer = np.abs(self.effect[before] - wanted) < np.abs(self.effect[place] - wanted)
        chosen: np.ndarray = np.where(nearer, before, place)
        return chosen

    def _distinct(
        self,
        image: Tensor,
        towards: np.ndarray,
        drawn: np.ndarray,
        used: np.ndarray,
        last: np.ndarray,
        order: np.ndarray,
        count: int,
    ) -> Tensor:
        seen, images = set[bytes](), []
        for row in order:
            steps = np.concatenate((towards, drawn[row][used[row]], last[row : row + 1]))
            if len(np.unique(self.pixel[steps])) < len(steps):
                continue  # a pixel moved twice may leave the lattice, and its effects do not add up
            moved = image.flatten().int()
            moved[torch.from_numpy(self.pixel[steps])] += torch.from_numpy(self.direction[steps]).int()
            key = moved.numpy().tobytes()
            if key not in seen:
                seen.add(key)
                images.append(moved.view_as(image).to(torch.uint8))
            if len(images) == count:
                break
        return torch.stack(images) if images else image.new_empty((0, *image.shape))
