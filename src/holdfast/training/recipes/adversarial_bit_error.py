"""Adversarial bit error training (AdvBET; Stutz et al., TPAMI 2022): RandBET with an attacker instead of chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial import Budget, LinearMemory, ProjectedGradient, Untargeted, Victim
from holdfast.faults.adversarial.normalisation import Norm
from holdfast.faults.adversarial.projected_gradient import Keep, Rank
from holdfast.models.lens import Lens
from holdfast.models.site import Site
from holdfast.models.stored import Stored
from holdfast.numerics.formats import formats
from holdfast.seeds import Seed, derive
from holdfast.training.recipes.clipping import Clipped, require_one_of, require_positive
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import Loss, loss_and_gradients, recipes, trainable
from holdfast.training.recipes.start import RAMPS, STARTS, Ramp, Start, ramped, started


@recipes.register("adversarial-bit-error")
@dataclass(frozen=True, kw_only=True)
class AdversarialBitErrorTraining(Clipped):
    """Quantisation-aware training on clean gradients and on those under the worst flips that an attack finds.

    Every step quantises the clipped master weights to real codes, takes the gradient at the decoded codes, lets
    :class:`~holdfast.faults.adversarial.ProjectedGradient` search at most ``bits`` flips, one per weight, that raise
    the loss of this very batch, takes the gradient there, and steps the master weights along the mean of both. A step
    costs about 2 + ``restarts`` * ``iterations`` forward and backward passes. Running statistics come from the clean
    pass alone. Runs on the CPU.
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
        loss, found = loss_and_gradients(
            model, memory.clean, images, labels, keep_buffers=False, label_smoothing=smoothing
        )
        if not started(self.start, self.start_loss, last_loss):
            return loss, found
        victim = self.attacked(model, memory, (images, labels), seed)
        weights = dict(memory.clean) | {site.name: place.tensor for site, place in victim.places.items()}
        perturbed, extra = loss_and_gradients(
            model, weights, images, labels, keep_buffers=True, label_smoothing=smoothing
        )
        bound, share = self.gradient_clip, 2 if self.combine == "mean" else 1
        for gradient, other in zip(found, extra, strict=True):
            gradient.add_(other if bound is None else other.clamp_(-bound, bound)).div_(share)
        return Loss(loss, perturbed), found

    def attacked(self, model: nn.Module, memory: Memory, batch: tuple[Tensor, Tensor], seed: Seed) -> Victim:
        """Return copies of the attacked codes of ``memory`` as a victim that holds the worst flips found.

        Raises:
            InvalidConfig: ``layers`` names no parameter, or the batch is on another device than the CPU.
        """
        if batch[0].device.type != "cpu":
            raise InvalidConfig("bits are attacked on the CPU", hint="compute device cpu, or random-bit-error")
        width, name_of = memory.format.bits, memory.format.name
        places = {
            Site("weights", name, tuple(item.codes.shape), name_of, width): Stored(
                memory.clean[name].clone(), Lens(item.codes.clone(), dict(item.qparams), memory.format)
            )
            for name, item in memory.encoded.items()
            if fnmatchcase(name, self.layers)
        }
        if not places:
            raise InvalidConfig(f"no trainable parameter matches {self.layers!r}", hint="layers=* attacks all")
        bits = int(derive(seed, "bits").numpy().integers(1, self.bits + 1)) if self.mixed else self.bits
        victim = Victim(model, places, LinearMemory.of(places, 8192), Untargeted(), batch)
        self.attack.search(victim, Budget(bits=bits), derive(seed, "attack"))
        return victim
