"""The one training loop."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.data.augmentation import together
from holdfast.errors import InvalidConfig, UsageError
from holdfast.evidence.lineage import Step
from holdfast.execution.fit import require_fit
from holdfast.execution.run import Progress
from holdfast.models import card, manifest_of
from holdfast.seeds import Seed, derive
from holdfast.training.compute import Compute
from holdfast.training.journal import Journal
from holdfast.training.measured import Measured, Meter
from holdfast.training.naming import identity
from holdfast.training.recipes.protocol import Curriculum, Loss, Prepared, Recipe, TwoSteps, recipes, trainable
from holdfast.training.state import State

Augment = Callable[[Tensor, Seed], Tensor]
_AHEAD = 16  # batches that a GPU augments at once: each takes hundreds of launches, whatever its size


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    augment: Augment | None = None,
    compute: Compute | None = None,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Return a trained copy of ``model`` in evaluation mode, on the CPU.

    The order of the data, its augmentation, the faults and the randomness inside layers (dropout) come from separate
    streams of ``seed``, so changing one leaves the others. Each is keyed by epoch and batch, so a training that was
    interrupted and resumed gives the same bits as one that was not.

    Args:
        model: starting point; unchanged. Frozen parameters (``requires_grad`` false) stay as they are.
        data: training samples with labels.
        recipe: what one step does.
        seed: of every random choice; initial weights are the model's own.
        augment: called with a preprocessed batch (n, c, h, w), on the device, and its seed; returns the batch to
            train on.
        compute: device, precision and compilation.
        journal: where to keep snapshots and metrics; a training that was interrupted there goes on.
        progress: called with (epochs done, epochs).

    Raises:
        InvalidConfig: no epochs, a quantised model, data that it does not take, nothing to train, a journal of another
            training, or a journal and an augmentation that it could not tell from another: a closure, a lambda, an
            object that is no dataclass.
        UsageError: the loss, a weight or a running statistic became NaN or infinite; says in which epoch and batch.
            Snapshots stay.
    """
    if not isinstance(recipe, Recipe) or isinstance(recipe, type):
        raise InvalidConfig(
            f"{recipe!r} is no recipe", hint="for example holdfast.Standard(schedule=Schedule(epochs=20))"
        )
    if recipe.schedule.epochs < 1 or card(model).lenses:
        raise InvalidConfig("training takes a float model and at least one epoch")
    require_fit(model, data)
    compute = compute or Compute()
    start = manifest_of(model).digest
    step = Step("train", describe(recipe, seed, augment, compute, exact=journal is not None), {"data": data.digest})
    result = copy.deepcopy(model).train()
    run = _Run(compute.holding(data), recipe, seed, augment, compute)
    with compute.prepared(result):
        if isinstance(recipe, Prepared):
            recipe.prepare(result)
        state = State.fresh(result, recipe.schedule)
        if journal is not None:
            journal.open(state, {"start": start, **step.to_json()})
        with _kept(journal):
            _epochs(run, state, journal, progress)
        _conclude(run, state)
    known = card(result)
    known.classes, known.preprocessing = data.classes, data.preprocessing.to_json()
    known.lineage.append(dataclasses.replace(step, inputs={"data": data.digest, "model": start}))
    return result.eval()


@contextmanager
def _kept(journal: Journal | None) -> Iterator[None]:
    """Leave no folder behind for a training that ends before its first epoch does."""
    try:
        yield
    except BaseException:
        if journal is not None:
            journal.abandon()
        raise


@dataclass(frozen=True)
class _Run:
    """What does not change while a training runs."""

    data: Dataset
    recipe: Recipe
    seed: int
    augment: Augment | None
    compute: Compute

    def batches(self, order: Tensor, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of ``epoch`` on the device; a GPU makes several at once, which are the same ones."""
        parts, device = order.split(size), self.compute.device
        ahead = 1 if device == "cpu" else _AHEAD
        for first in range(0, len(parts), ahead):
            sizes = [len(part) for part in parts[first : first + ahead]]
            images, labels = self.data.batch(torch.cat(parts[first : first + ahead]))
            if self.augment is not None:
                seeds = [derive(self.seed, "augment", epoch, first + place) for place in range(len(sizes))]
                images = together(self.augment, images, sizes, seeds)
            yield from zip(images.to(device).split(sizes), labels.to(device).split(sizes), strict=True)


def _epochs(run: _Run, state: State, journal: Journal | None, progress: Progress | None) -> None:
    total = run.recipe.schedule.epochs
    if progress is not None and state.epoch:
        progress(state.epoch, total)
    while state.epoch < total:
        measured = _epoch(run, state, journal)
        state.epoch += 1
        if journal is not None:
            journal.record(state, measured, last=state.epoch == total)
        if progress is not None:
            progress(state.epoch, total)


def _epoch(run: _Run, state: State, journal: Journal | None) -> Measured:
    began, meter = time.perf_counter(), Meter()
    recipe = run.recipe.at_epoch(state.epoch) if isinstance(run.recipe, Curriculum) else run.recipe
    order = torch.from_numpy(derive(run.seed, "order", state.epoch).numpy().permutation(len(run.data)))
    order = order.to(run.data.raw.device)
    size = recipe.schedule.batch_size
    count = -(-len(order) // size)
    for number, batch in enumerate(run.batches(order, state.epoch, size)):
        place = (state.epoch, number)
        for group in state.optimiser.param_groups:
            group["lr"] = recipe.schedule.rate(*place, count)
        with run.compute.step(derive(run.seed, "layers", *place)):
            state.loss = _step(recipe, state, *batch, derive(run.seed, "faults", *place))
        _require_finite(state, number, journal)
        meter.add(state.loss, len(batch[1]))
    return meter.result(state.epoch, recipe.schedule.rate(state.epoch, 0, count), time.perf_counter() - began)


def _step(recipe: Recipe, state: State, images: Tensor, labels: Tensor, seed: Seed) -> float:
    """Move the weights by one batch; return its loss."""
    model = state.model
    recipe.project(model)
    loss, gradients = recipe.gradients(model, images, labels, seed, state.loss)
    if not math.isfinite(loss):
        return loss  # stepping on would only spoil the weights
    _descend(recipe, state, gradients)
    if isinstance(recipe, TwoSteps):
        recipe.project(model)
        loss = _second(recipe, state, loss, recipe.second(model, images, labels, seed, state.loss))
    if state.average is not None:
        state.average.update(model)
    return loss


def _descend(recipe: Recipe, state: State, gradients: list[Tensor]) -> None:
    for value, gradient in zip(trainable(state.model).values(), gradients, strict=True):
        value.grad = gradient
    if isinstance(recipe, Prepared):
        recipe.differentiate(state.model)
    state.optimiser.step()


def _second(recipe: Recipe, state: State, loss: float, found: tuple[float, list[Tensor]] | None) -> float:
    """Step again, within the range in which every tensor lies now."""
    if found is None:
        return loss
    values = trainable(state.model).values()
    ranges = [value.detach().aminmax() for value in values]
    _descend(recipe, state, found[1])
    with torch.no_grad():
        for value, (low, high) in zip(values, ranges, strict=True):
            value.clamp_(low, high)
    return Loss(loss, float(found[0]), getattr(loss, "error", None))


def _require_finite(state: State, batch: int, journal: Journal | None) -> None:
    perturbed = getattr(state.loss, "perturbed", None)
    weights: list[Tensor] = list(state.model.parameters())
    problem, hint = "", "lower the learning rate"
    if not math.isfinite(state.loss):
        problem = f"the loss became {float(state.loss)}"
    elif perturbed is not None and not math.isfinite(perturbed):
        problem, hint = f"the loss under bit errors became {perturbed}", f"lower the rate, or {hint}"
    elif not _all_finite(weights):
        problem = "the weights became NaN or infinite"
    elif not _all_finite(_running_statistics(state.model)):
        problem = "the running statistics became NaN or infinite"
    if problem:
        kept = "; snapshots of the epochs before are whole" if journal is not None and journal.has_snapshots else ""
        raise UsageError(f"{problem} in epoch {state.epoch}, batch {batch}", hint=hint + kept)


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """Return what normalisation learned; other buffers, such as masks, may well be infinite."""
    return [value for name, value in model.named_buffers() if name.rpartition(".")[2] in _STATISTICS]


_STATISTICS = ("running_mean", "running_var")


def _all_finite(values: list[Tensor]) -> bool:
    if math.isfinite(torch.nn.utils.get_total_norm(values)):  # one number of all of them
        return True
    return all(bool(torch.isfinite(value).all()) for value in values)  # large numbers have no norm in float32


def _conclude(run: _Run, state: State) -> None:
    if state.average is not None:
        state.average.store(state.model)
    run.recipe.project(state.model)
    if isinstance(run.recipe, Prepared):
        run.recipe.finish(state.model)
    for value in state.model.parameters():
        value.grad = None


def describe(
    recipe: Recipe,
    seed: int,
    augment: Augment | None = None,
    compute: Compute | None = None,
    *,
    exact: bool = False,
) -> dict[str, Any]:
    """Return what a lineage step keeps of a training: recipe, all its parameters, seed, and what else counts.

    Raises:
        InvalidConfig: ``exact``, and an augmentation that another one could share its name with.
    """
    values: dict[str, Any] = dataclasses.asdict(recipe) if dataclasses.is_dataclass(recipe) else {}
    name = recipes.name_of(type(recipe))
    found = {"recipe": name, **values, "schedule": dataclasses.asdict(recipe.schedule), "seed": str(seed)}
    if augment is not None:
        found["augment"] = identity(augment, exact=exact)
    if compute is not None and compute != Compute():
        means = dataclasses.asdict(compute)
        found["compute"] = means if compute.graphs else {key: means[key] for key in means if key != "graphs"}
    return found
