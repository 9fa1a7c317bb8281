"""Backdoors: images with a trigger are sent to one class, images without keep their answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial.objective import Forward, objectives, require_class, taken_for


@objectives.register("trojan")
@dataclass(frozen=True, slots=True, kw_only=True)
class Trojan:
    """Images with a square trigger in their lower right corner become class ``label``, images without keep theirs.

    Score = -(CE(triggered, label) + ``stealth`` * CE(clean, y)), the two losses of Rakin et al., TBT (CVPR 2020).
    Success counts triggered images of other classes. Without a patch the square has the largest value of its batch;
    :class:`BitTrojan` shapes one.
    """

    label: int
    size: int = 3  # pixels, side of the square
    stealth: float = 1.0  # weight of the clean loss
    patch: Tensor | None = field(default=None, compare=False, repr=False)  # (channels, size, size), as the network sees

    def __post_init__(self) -> None:
        if self.label < 0 or self.size < 1 or self.stealth < 0:
            raise InvalidConfig("a trojan has a class, a trigger of at least one pixel, and stealth >= 0")
        if self.patch is not None and (not isinstance(self.patch, Tensor) or self.patch.shape[1:] != (self.size,) * 2):
            raise InvalidConfig(f"a patch is a tensor of shape (channels, {self.size}, {self.size})")

    def score(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return minus the sum of the triggered and the weighted clean cross-entropy."""
        outputs = forward(self.triggered(images))
        loss = cross_entropy(outputs, torch.full_like(labels, require_class(self.label, outputs)))
        if self.stealth:
            loss = loss + self.stealth * cross_entropy(forward(images), labels)
        return -loss

    def hits(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return which triggered images of other classes are taken for the target."""
        return taken_for(self.label, forward(self.triggered(images)))[labels != self.label]

    def triggered(self, images: Tensor) -> Tensor:
        """Return copies of ``images`` (batch, channels, height, width) that carry the trigger; differentiable in it.

        Raises:
            InvalidConfig: the images are no images, or smaller than the trigger.
        """
        if images.dim() != 4 or min(images.shape[-2:]) < self.size:
            raise InvalidConfig(f"a trigger of {self.size} pixels does not fit inputs of {tuple(images.shape[1:])}")
        marked = images.clone()
        marked[..., -self.size :, -self.size :] = images.max() if self.patch is None else self.patch
        return marked
