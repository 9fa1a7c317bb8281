"""Faults in a training: in the gradients that a step takes, or in what the optimizer keeps between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution.condition import Fault, Flips, Population
from holdfast.execution.injection import drawn_in_window
from holdfast.models.site import Site
from holdfast.models.sites import chosen
from holdfast.models.stored import Stored
from holdfast.numerics import bits
from holdfast.numerics.formats import format_of_dtype
from holdfast.seeds import Seed, derive


@dataclass
class TrainingFault:
    """What has happened so far inside :func:`inject_training`.

    Attributes:
        steps: optimizer steps since the beginning of the block.
        struck: (step, changes of one site), in order.
    """

    steps: int = 0
    struck: list[tuple[int, Flips]] = field(default_factory=list)


@contextmanager
def inject_training(
    model: nn.Module, fault: Fault, *, at: str, step: int, last: int | None = None, seed: int | Seed = 0
) -> Iterator[TrainingFault]:
    """Run the block, some training of ``model``, with ``fault`` present as optimizer step ``step`` begins.

    Two kinds of sites are there: ``gradients:NAME`` as the backward pass left them, and ``moments:NAME/KEY``, what an
    optimizer of torch keeps for a parameter (``exp_avg``, ``exp_avg_sq``, ``momentum_buffer``), which is there from the
    second step on. Steps are counted from 0 in this block, over every optimizer of torch that trains ``model`` or a
    copy of it: one whose parameters are the model's, or have the shapes of its trainable ones in the same order.
    ``holdfast.train`` copies its model, and is reached so. What the fault changed stays, as it would in a machine.

    Args:
        model: whose parameters name the sites.
        fault: the law that draws the flips.
        at: selection of sites of the two kinds.
        step: the first step that is affected.
        last: the last one; None: only the first.
        seed: the realisation.

    Raises:
        NoSuchSite: nothing matches ``at`` when the step begins, or the block ends before that step.
        InvalidConfig: no such steps, or moments struck more than once: what strikes them stays.
    """
    last = step if last is None else last
    if not 0 <= step <= last:
        raise InvalidConfig(f"steps {step} to {last} are no steps of a training")
    if last != step and "moments" in at:
        raise InvalidConfig("what strikes a moment stays there, so it strikes in one step", hint="leave last= away")
    seen = TrainingFault()

    def before(optimizer: torch.optim.Optimizer, *_: object) -> None:
        names = _names(model, optimizer)
        if names is None:
            return
        number, seen.steps = seen.steps, seen.steps + 1
        if step <= number <= last:
            memory = _memory(names, optimizer)
            population = Population(chosen(tuple(memory), at))
            drawn = drawn_in_window(fault, population, derive(seed, "inject"), number, step, last)
            seen.struck += [(number, _applied(item, memory[item.site])) for item in drawn]

    handle = register_optimizer_step_pre_hook(before)
    try:
        yield seen
    finally:
        handle.remove()
    if seen.steps <= step:
        hint = "torch's optimizers take part whose parameters are the model's, or a copy's in the same order"
        raise NoSuchSite(f"the training took {seen.steps} steps, so there was no step {step}", hint=hint)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[Tensor, str] | None:
    """Return what the optimizer's parameters are called in ``model``; None for the optimizer of another model."""
    own: list[Tensor] = [value for group in optimizer.param_groups for value in group["params"]]
    known: dict[Tensor, str] = {value: name for name, value in model.named_parameters()}
    if all(value in known for value in own):
        return {value: known[value] for value in own}
    trainable = [(name, value.shape) for name, value in model.named_parameters() if value.requires_grad]
    if [shape for _, shape in trainable] != [value.shape for value in own]:
        return None
    return {value: name for value, (name, _) in zip(own, trainable, strict=True)}


def _memory(names: dict[Tensor, str], optimizer: torch.optim.Optimizer) -> dict[Site, Tensor]:
    """Return the gradients, then the moments, that are there as a step begins."""
    gradients = {
        _site("gradients", name, value.grad): value.grad for value, name in names.items() if value.grad is not None
    }
    moments = {
        _site("moments", f"{name}/{key}", kept): kept
        for value, name in names.items()
        for key, kept in _state(optimizer, value).items()
        if isinstance(kept, Tensor) and kept.is_floating_point()
    }
    return gradients | moments


def _state(optimizer: torch.optim.Optimizer, value: Tensor) -> dict[str, Any]:
    return dict(optimizer.state[value]) if value in optimizer.state else {}  # asking would add an empty state


def _site(kind: str, name: str, value: Tensor) -> Site:
    return Site(kind, name, tuple(value.shape), format_of_dtype(value.dtype), bits.bit_width(value.dtype))


def _applied(item: Flips, tensor: Tensor) -> Flips:
    place = Stored(tensor.detach(), None)
    place.xor_(item.index, item.against(place.at(item.index)))
    return item
