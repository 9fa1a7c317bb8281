"""Attack a model within a budget, and measure the result on images the attack has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.fit import require_fit
from holdfast.execution.injection import STORED, inject
from holdfast.execution.run import Progress, beside
from holdfast.execution.statistics import Proportion
from holdfast.faults.adversarial.budget import Budget, LinearMemory
from holdfast.faults.adversarial.fixed_flips import FixedFlips, FlipList
from holdfast.faults.adversarial.objective import Objective, Untargeted, evaluate
from holdfast.faults.adversarial.protocol import Attack
from holdfast.faults.adversarial.victim import Victim
from holdfast.models import select, stored
from holdfast.models.outputs import logits_of, require_scores
from holdfast.models.site import Site
from holdfast.models.stored import Stored
from holdfast.models.subject import evaluating
from holdfast.seeds import derive


@dataclass(frozen=True)
class AttackReport:
    """What an attack found and what it does.

    Attributes:
        fault: the flips, to be injected anywhere.
        rows: DRAM rows they touch.
        clean: error on the evaluation images without flips.
        attacked: error on the same images with them.
        success_before: share of the evaluation images that count on which the objective holds without flips.
        success: the same with the flips.
        score_before: the objective on the attack images without flips.
        score: the same with the flips.
        history: (bits flipped, score) at each step the attack kept.
        forwards: passes of the attack images through the model.
        objective: as the attack left it: a shaped trigger is in it.
        attack_data: digest of the attack images, none of which is among the evaluation images.
        evaluation_data: digest of the evaluation images.
    """

    fault: FixedFlips
    rows: int
    clean: Proportion
    attacked: Proportion
    success_before: Proportion
    success: Proportion
    score_before: float
    score: float
    history: tuple[tuple[int, float], ...]
    forwards: int
    objective: Objective
    attack_data: str
    evaluation_data: str

    @property
    def bits(self) -> int:
        """Number of flips."""
        return self.fault.flip_list.bits


def attack(
    model: nn.Module,
    data: Dataset,
    method: Attack,
    budget: Budget,
    *,
    at: str = "weights",
    objective: Objective | None = None,
    images: int = 128,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> AttackReport:
    """Search for flips that serve ``objective``; the model is afterwards what it was, bit for bit.

    The attack works on ``images`` random images of ``data``; error and success are measured on all the others. Two
    calls with one ``data`` and ``seed`` share the split, whatever the method, and so compare on the same images.

    Args:
        model: evaluated in evaluation mode, on any device; one that is quantised is moved with its codes by
            :func:`holdfast.quantization.place`.
        data: labelled images.
        method: searches.
        budget: what it may spend.
        at: selection of ``weights`` and ``buffers`` that may be attacked.
        objective: what is wanted; any wrong answer unless given.
        images: size of the attack batch.
        seed: of the split and of every draw of the method.
        batch_size: of the evaluation.
        progress: called with (steps done, steps).

    Raises:
        InvalidConfig: the model does not take the data, nothing is left to evaluate on, a selection of what is not
            stored, or a method that broke the budget.
        NoSuchSite: ``at`` matches nothing.
    """
    data = beside(model, data)
    seen, unseen = split_images(data, images, seed)
    require_fit(model, data)
    places = attackable(model, at)
    memory = LinearMemory.of_model(model, budget.row_bytes)
    with evaluating(model):
        victim = Victim(model, places, memory, objective or Untargeted(), seen.all(), progress)
        score_before = victim.score()
        try:
            method.search(victim, budget, derive(seed, "attack", "search"))
            score, flips = victim.score(), victim.flips
        finally:
            victim.restore()
        if broken := budget.exceeded(memory, flips):
            raise InvalidConfig(f"{method!r} went beyond its budget: {broken}")
        fault = FixedFlips(listed=FlipList.of(flips))
        clean, success_before = evaluate(_scores(model), unseen, victim.objective, batch_size)
        with inject(model, fault, at=at) as faulty:
            attacked, success = evaluate(_scores(faulty), unseen, victim.objective, batch_size)
    return AttackReport(
        fault,
        len(memory.rows_of(flips)),
        clean,
        attacked,
        success_before,
        success,
        score_before,
        score,
        tuple(victim.history),
        victim.forwards,
        victim.objective,
        seen.digest,
        unseen.digest,
    )


def split_images(data: Dataset, images: int, seed: int) -> tuple[Dataset, Dataset]:
    """Return ``images`` random images for the attack, and all others for its evaluation.

    Raises:
        InvalidConfig: either part would be empty, or the data has no labels.
    """
    if not 0 < images < len(data):
        raise InvalidConfig(
            f"{images} of {len(data)} images leave none to attack or none to evaluate on", hint="for example images=128"
        )
    if int(data.labels.min()) < 0:
        raise InvalidConfig(f"{data.name} has no labels to attack", hint="an attack takes labelled images")
    order = torch.from_numpy(derive(seed, "attack", "images").numpy().permutation(len(data)))
    return data.subset(order[:images].sort().values), data.subset(order[images:].sort().values)


def _scores(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: require_scores(logits_of(model(images)))


def attackable(model: nn.Module, at: str) -> Mapping[Site, Stored]:
    """Return the stored bits that ``at`` selects.

    Raises:
        InvalidConfig: a selected site is computed, not stored.
        NoSuchSite: nothing matches.
    """
    kinds = {part.strip().partition(":")[0] for part in at.split(",")}
    if not kinds <= set(STORED):
        raise InvalidConfig(f"an attack flips stored bits, not {at!r}", hint="at=weights:..., or buffers:...")
    return {site: stored(model, site) for site in select(model, at)}
