"""Plain training: of float weights, or aware of quantisation; optionally clipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.numerics.formats import formats
from holdfast.seeds import Seed
from holdfast.training.recipes.clipping import Clipped
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import Loss, loss_and_gradients, recipes, trainable


@recipes.register("standard")
@dataclass(frozen=True, kw_only=True)
class Standard(Clipped):
    """Cross-entropy on clean weights; ``clip`` adds Stutz et al.'s clipping to [-w_max, w_max] before each step.

    With a ``format``, every step quantises the master weights afresh, computes at the decoded codes, and takes the
    gradient found there as the master weights' own (straight through, without a clipping mask): quantisation-aware
    training (Stutz et al., MLSys 2021, section 4.1 and algorithm 1 without its errors).
    """

    format: str | None = None  # of quantisation-aware training, e.g. "rquant8"; None trains float weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format is not None:
            formats.build(self.format)  # an unknown one is named now, not in the first batch

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]]:
        """Return the loss and its gradients."""
        weights: Mapping[str, Tensor] = trainable(model)
        if self.format is not None:
            weights = Memory.of(self.format, weights).clean
        return loss_and_gradients(
            model, weights, images, labels, keep_buffers=False, label_smoothing=self.label_smoothing
        )
