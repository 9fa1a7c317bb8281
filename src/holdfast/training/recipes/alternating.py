"""Alternating clean and bit-error steps (Stutz et al., MLSys 2021, appendix; as described, not as released)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from holdfast.seeds import Seed
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import Loss, loss_and_gradients, recipes, trainable
from holdfast.training.recipes.random_bit_error import UnderBitErrors
from holdfast.training.recipes.start import ramped


@recipes.register("alternating")
@dataclass(frozen=True, kw_only=True)
class Alternating(UnderBitErrors):
    """A clean quantisation-aware step, then a step along the bit-error gradient at the weights it led to.

    The second step is projected into the range that the first one left each tensor, so errors cannot widen the
    quantiser's ranges. The authors' release copies gradients too late to take the first step; this takes both.
    """

    def at_epoch(self, epoch: int) -> Alternating:
        """Return the recipe with the rate that the ramp has reached in ``epoch``."""
        return replace(self, rate=self.rate * ramped(self.ramp, epoch, self.schedule.epochs), ramp="none")

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]]:
        """Return the clean loss and its gradients at the quantised weights."""
        weights = Memory.of(self.format, trainable(model)).clean
        return loss_and_gradients(
            model, weights, images, labels, keep_buffers=False, label_smoothing=self.label_smoothing
        )

    def second(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]] | None:
        """Return the loss and gradients under bit errors, or None before they start."""
        if not self._active(last_loss):
            return None
        weights = self._faulty(Memory.of(self.format, trainable(model)), seed)
        loss, found = self._perturbed(model, weights, (images, labels))
        return Loss.read([loss])[0], found
