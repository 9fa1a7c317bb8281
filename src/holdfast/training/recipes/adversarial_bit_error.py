"""Adversarial bit error training (AdvBET; Stutz et al., TPAMI 2022): RandBET with an attacker instead of chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial import Budget, ProjectedGradient
from holdfast.faults.adversarial.normalisation import Norm
from holdfast.faults.adversarial.projected_gradient import Keep, Rank
from holdfast.numerics.formats import formats
from holdfast.seeds import Seed, derive
from holdfast.training.recipes.clipping import Clipped, clamp_all_, require_one_of, require_positive
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import Loss, loss_and_gradients_there, recipes, trainable
from holdfast.training.recipes.start import RAMPS, STARTS, Ramp, Start, ramped, started
from holdfast.training.recipes.under_attack import StepVictim


@recipes.register("adversarial-bit-error")
@dataclass(frozen=True, kw_only=True)
class AdversarialBitErrorTraining(Clipped):
    """Quantisation-aware training on clean gradients and on those under the worst flips that an attack finds.

    Every step quantises the clipped master weights to real codes, takes the gradient at the decoded codes, lets
    :class:`~holdfast.faults.adversarial.ProjectedGradient` search at most ``bits`` flips, one per weight, that raise
    the loss of this very batch, takes the gradient there, and steps the master weights along the mean of both. A step
    costs about 2 + ``restarts`` * ``iterations`` forward and backward passes. Running statistics come from the clean
    pass alone. No copy of the model is made: the attack flips the codes of the step where they lie.
    """

    format: str = "rquant8"
    bits: int = 20  # epsilon, flips per step
    mixed: bool = False  # draw each step's budget uniformly from 1 .. bits
    layers: str = "*"  # glob of the parameters that are attacked
    clip: float | None = 0.1  # w_max
    iterations: int = 5  # T, with the fields below, of the attack
    restarts: int = 1  # R
    step: float = 0.1
    momentum: float = 0.9
    norm: Norm = "linf"
    per_layer: bool = False
    relative: bool = True
    keep: Keep = "projection"
    rank: Rank = "values"
    start: Start = "below"  # when flips begin, see :func:`~holdfast.training.recipes.start.started`
    start_loss: float = 1.75  # that rule's threshold on the clean loss of the batch before
    gradient_clip: float | None = 0.05  # element-wise bound of the gradient under flips
    combine: Literal["mean", "sum"] = "mean"  # of both gradients
    ramp: Ramp = "none"  # how ``bits`` grows with the epochs

    def __post_init__(self) -> None:
        super().__post_init__()
        formats.build(self.format)  # an unknown one is named now, not in the first batch
        _ = self.attack, Budget(bits=self.bits)
        if not 0 < self.start_loss < math.inf:
            raise InvalidConfig(f"start_loss is a positive loss, not {self.start_loss}", hint="start=always needs none")
        require_positive("gradient_clip", self.gradient_clip)
        require_one_of("start", self.start, STARTS)
        require_one_of("ramp", self.ramp, RAMPS)
        require_one_of("combine", self.combine, ("mean", "sum"))

    @property
    def attack(self) -> ProjectedGradient:
        """What searches the flips of a step."""
        return ProjectedGradient(
            iterations=self.iterations,
            restarts=self.restarts,
            step=self.step,
            momentum=self.momentum,
            norm=self.norm,
            per_layer=self.per_layer,
            relative=self.relative,
            keep=self.keep,
            rank=self.rank,
        )

    def at_epoch(self, epoch: int) -> AdversarialBitErrorTraining:
        """Return the recipe with the budget that the ramp has reached in ``epoch``."""
        share = ramped(self.ramp, epoch, self.schedule.epochs)
        return replace(self, bits=max(1, round(self.bits * share)), ramp="none")

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]]:
        """Return the clean loss and the combined gradients."""
        memory = Memory.of(self.format, trainable(model))
        smoothing = self.label_smoothing
        clean, found = loss_and_gradients_there(
            model, memory.clean, images, labels, keep_buffers=False, label_smoothing=smoothing
        )
        if not started(self.start, self.start_loss, last_loss):
            return Loss.read([clean])[0], found
        self.attacked(model, memory, (images, labels), seed)
        worst, extra = loss_and_gradients_there(
            model, memory.clean, images, labels, keep_buffers=True, label_smoothing=smoothing
        )
        self._combine(found, extra)
        loss, perturbed = Loss.read([clean, worst])
        return Loss(loss, perturbed), found

    def _combine(self, found: list[Tensor], extra: list[Tensor]) -> None:
        """Make the clean gradients, in place, those of the step."""
        if self.gradient_clip is not None:
            clamp_all_(extra, -self.gradient_clip, self.gradient_clip)
        torch._foreach_add_(found, extra)
        if self.combine == "mean":
            torch._foreach_div_(found, 2)

    def attacked(self, model: nn.Module, memory: Memory, batch: tuple[Tensor, Tensor], seed: Seed) -> StepVictim:
        """Put the worst flips that are found into ``memory``, and return the victim, which can take them out again.

        Raises:
            InvalidConfig: ``layers`` names no parameter.
        """
        bits = int(derive(seed, "bits").numpy().integers(1, self.bits + 1)) if self.mixed else self.bits
        victim = StepVictim(model, memory, batch, self.layers)
        self.attack.search(victim, Budget(bits=bits), derive(seed, "attack"))
        return victim
