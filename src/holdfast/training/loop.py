"""The one training loop."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, UsageError
from holdfast.evidence.lineage import Step
from holdfast.execution.run import Progress
from holdfast.models import card
from holdfast.seeds import derive
from holdfast.training.recipes.protocol import Recipe, Schedule, recipes


def train(
    model: nn.Module, data: Dataset, recipe: Recipe, *, seed: int = 0, progress: Progress | None = None
) -> nn.Module:
    """Return a trained copy of ``model`` in evaluation mode.

    The order of the data and the bit errors come from separate streams of ``seed``, so changing one leaves the other.

    Args:
        model: starting point; unchanged.
        data: training samples with labels.
        recipe: what one step does.
        seed: of data order and faults; initial weights are the model's own.
        progress: called with (epochs done, epochs).

    Raises:
        InvalidConfig: no epochs, or a quantised model.
        UsageError: the loss became NaN; says in which epoch and batch.
    """
    schedule = recipe.schedule
    if schedule.epochs < 1 or card(model).lenses:
        raise InvalidConfig("training takes a float model and at least one epoch")
    result = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(
        result.parameters(), schedule.lr, momentum=0.9, nesterov=True, weight_decay=schedule.weight_decay
    )
    decay = torch.optim.lr_scheduler.MultiStepLR(optimiser, _milestones(schedule.epochs), gamma=0.1)
    loss = math.inf
    for epoch in range(schedule.epochs):
        loss = _epoch(result, data, recipe, optimiser, epoch, seed, loss)
        decay.step()
        if progress is not None:
            progress(epoch + 1, schedule.epochs)
    recipe.project(result)
    known = card(result)
    known.classes, known.preprocessing = data.classes, data.preprocessing.to_json()
    known.lineage.append(Step("train", describe(recipe, seed), {"data": data.digest}))
    return result.eval()


def _milestones(epochs: int) -> list[int]:
    return sorted({max(1, round(epochs * share)) for share in (0.4, 0.6, 0.8)})


def _epoch(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    epoch: int,
    seed: int,
    loss: float,
) -> float:
    order = torch.from_numpy(derive(seed, "order", epoch).numpy().permutation(len(data)))
    for number, indices in enumerate(order.split(recipe.schedule.batch_size)):
        recipe.project(model)
        images, labels = data.batch(indices)
        loss, gradients = recipe.gradients(model, images, labels, derive(seed, "faults", epoch, number), loss)
        if not math.isfinite(loss):
            raise UsageError(f"the loss became {loss} in epoch {epoch}, batch {number}", hint="lower the learning rate")
        for value, gradient in zip(model.parameters(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()
    return loss


def describe(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return what a lineage step keeps of a training: the recipe, all its parameters and the seed."""
    values: dict[str, Any] = dataclasses.asdict(recipe) if dataclasses.is_dataclass(recipe) else {}
    schedule: Schedule = recipe.schedule
    name = recipes.name_of(type(recipe))
    return {"recipe": name, **values, "schedule": dataclasses.asdict(schedule), "seed": str(seed)}
