"""Random bit error training (RandBET; Stutz et al., MLSys 2021, section 4.3 and algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats import formats
from holdfast.seeds import Seed, derive
from holdfast.training.recipes.clipping import Clipped, clamp_all_, require_one_of, require_positive
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import Loss, loss_and_gradients_there, recipes, trainable
from holdfast.training.recipes.start import RAMPS, STARTS, Ramp, Start, ramped, started

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class UnderBitErrors(Clipped):
    """What recipes with random bit errors share: which errors, from when on, and what their gradient may do."""

    format: str = "rquant8"
    rate: float = 0.01  # p, per bit
    clip: float | None = 0.1  # w_max
    start: Start = "below"  # when errors begin, see :func:`~holdfast.training.recipes.start.started`
    start_loss: float = 1.75  # that rule's threshold on the clean loss of the batch before
    gradient_clip: float | None = 0.05  # element-wise bound of the bit-error gradient, as in the released code
    ramp: Ramp = "none"  # how the rate grows with the epochs, see :func:`~holdfast.training.recipes.start.ramped`
    pattern: int | None = None  # one chip for the whole training, that of ``inject(..., seed=pattern)`` (PattBET)

    def __post_init__(self) -> None:
        super().__post_init__()
        formats.build(self.format)  # an unknown one is named now, not in the first batch
        if not 0 <= self.rate <= 1:
            raise InvalidConfig(f"a bit error rate lies between 0 and 1, not {self.rate}", hint="0.01 is one percent")
        if not 0 < self.start_loss < math.inf:
            raise InvalidConfig(f"start_loss is a positive loss, not {self.start_loss}", hint="start=always needs none")
        require_positive("gradient_clip", self.gradient_clip)
        require_one_of("start", self.start, STARTS)
        require_one_of("ramp", self.ramp, RAMPS)

    def _active(self, last_loss: float) -> bool:
        return self.rate > 0 and started(self.start, self.start_loss, last_loss)

    def _faulty(self, memory: Memory, seed: Seed, share: float = 1.0) -> dict[str, Tensor]:
        if self.pattern is not None:
            return memory.with_pattern(self.rate * share, self.pattern)
        return memory.with_errors(self.rate * share, seed)

    def _perturbed(
        self, model: nn.Module, weights: dict[str, Tensor], batch: Batch, *, keep_buffers: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss under bit errors, still on its device, and its gradients within their bound."""
        loss, found = loss_and_gradients_there(
            model, weights, *batch, keep_buffers=keep_buffers, label_smoothing=self.label_smoothing
        )
        if self.gradient_clip is not None:
            clamp_all_(found, -self.gradient_clip, self.gradient_clip)
        return loss, found


@recipes.register("random-bit-error")
@dataclass(frozen=True, kw_only=True)
class RandomBitErrorTraining(UnderBitErrors):
    """Quantisation-aware training on clean and bit-error gradients, straight through the quantiser.

    Every step quantises the clipped master weights to real codes, takes the gradient at the decoded codes, flips bits
    of the same codes at ``rate`` (a fresh chip each batch), takes the gradient there, and steps the master weights
    along the mean of both. No copy of the model is made; at a rate of zero it is :class:`Standard` with that format.
    """

    combine: Literal["mean", "sum"] = "mean"  # of clean and bit-error gradients; the paper sums, its code averages
    chips: int = 1  # drawn per step, a forward and a backward pass each
    mixed: bool = False  # draw each chip's rate uniformly below ``rate``
    statistics: Literal["clean", "perturbed", "both"] = "clean"  # which passes move running statistics

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chips < 1:
            raise InvalidConfig(f"a step takes one chip or more, not {self.chips}", hint="rate=0 trains without errors")
        if self.pattern is not None and (self.chips > 1 or self.mixed):
            raise InvalidConfig("a fixed pattern is one chip at one rate", hint="leave out chips and mixed, or pattern")
        require_one_of("combine", self.combine, ("mean", "sum"))
        require_one_of("statistics", self.statistics, ("clean", "perturbed", "both"))

    def at_epoch(self, epoch: int) -> RandomBitErrorTraining:
        """Return the recipe with the rate that the ramp has reached in ``epoch``."""
        return replace(self, rate=self.rate * ramped(self.ramp, epoch, self.schedule.epochs), ramp="none")

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]]:
        """Return the clean loss and the combined gradients."""
        batch = images, labels
        memory = Memory.of(self.format, trainable(model))
        chips = self.chips if self._active(last_loss) else 0
        clean, found = loss_and_gradients_there(
            model,
            memory.clean,
            *batch,
            keep_buffers=chips > 0 and self.statistics == "perturbed",
            label_smoothing=self.label_smoothing,
        )
        extra = [self._add_errors(model, memory, batch, self._drawn(seed, chip), found) for chip in range(chips)]
        if extra and self.combine == "mean":
            torch._foreach_div_(found, 1 + chips)
        loss, *perturbed = Loss.read([clean, *extra])
        return (Loss(loss, sum(map(float, perturbed)) / chips) if chips else loss), found

    def _add_errors(
        self, model: nn.Module, memory: Memory, batch: Batch, drawn: tuple[Seed, float], found: list[Tensor]
    ) -> Tensor:
        """Add the gradients under one chip to ``found``, and return the loss there."""
        weights = self._faulty(memory, *drawn)
        loss, extra = self._perturbed(model, weights, batch, keep_buffers=self.statistics == "clean")
        torch._foreach_add_(found, extra)
        return loss

    def _drawn(self, seed: Seed, chip: int) -> tuple[Seed, float]:
        """Return the seed of one chip of the step, and its share of the rate."""
        seed = derive(seed, chip) if chip else seed
        return seed, float(derive(seed, "rate").numpy().random()) if self.mixed else 1.0
