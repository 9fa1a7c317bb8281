"""What the training loop asks of a recipe: :class:`Recipe`, and what it offers to one that wants more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.models.outputs import logits_of
from holdfast.seeds import Seed
from holdfast.training.graphs import graphs_of
from holdfast.training.schedule import Schedule

__all__ = [
    "BOUNDS",
    "Curriculum",
    "Loss",
    "Prepared",
    "Recipe",
    "Schedule",
    "TwoSteps",
    "loss_and_gradients",
    "loss_and_gradients_there",
    "recipes",
    "trainable",
]

BOUNDS = "holdfast_clip_bounds"  # a parameter or buffer that clipping may add to the model in training


class Loss(float):
    """The clean loss of a batch.

    Attributes:
        perturbed: mean loss under the batch's bit errors; None when none were drawn.
        error: share of the batch that the clean pass got wrong, 0..1; None when unknown.
    """

    perturbed: float | None
    error: float | None

    def __new__(cls, clean: float | Tensor, perturbed: float | None = None, error: float | None = None) -> Loss:
        """Return ``clean`` as a float that remembers ``perturbed`` and ``error``."""
        made = super().__new__(cls, clean)
        made.perturbed, made.error = perturbed, getattr(clean, "error", None) if error is None else error
        return made

    @classmethod
    def read(cls, results: Sequence[Tensor]) -> list[Loss]:
        """Return what several passes left on the device, waiting for it once."""
        return [cls(loss, error=error) for loss, error in torch.stack(list(results)).tolist()]


@runtime_checkable
class Recipe(Protocol):
    """Turns a batch into gradients of the master weights; a frozen dataclass whose fields are its parameters."""

    @property
    def schedule(self) -> Schedule:
        """Optimiser settings."""
        ...

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[float, list[Tensor]]:
        """Return the clean loss and one gradient per :func:`trainable` parameter, in their order.

        ``seed`` is the batch's own. ``last_loss`` is what the batch before returned (infinity at the start); a
        :class:`Loss` says more than a float.
        """
        ...

    def project(self, model: nn.Module) -> None:
        """Constrain the master weights, before each step and at the end."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A recipe that adds parameters of its own to the model in training, such as learned bounds."""

    def prepare(self, model: nn.Module) -> None:
        """Add them; ``model`` is a copy that belongs to the training."""
        ...

    def differentiate(self, model: nn.Module) -> None:
        """Set their ``grad``; those of the :func:`trainable` parameters are set already."""
        ...

    def finish(self, model: nn.Module) -> None:
        """Take them away again."""
        ...


@runtime_checkable
class Curriculum(Protocol):
    """A recipe that changes from epoch to epoch."""

    def at_epoch(self, epoch: int) -> Recipe:
        """Return the recipe as it stands in ``epoch``, from 0."""
        ...


@runtime_checkable
class TwoSteps(Protocol):
    """A recipe that steps a second time on the same batch, within the range that the first step left each tensor."""

    def second(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[float, list[Tensor]] | None:
        """Return the loss and gradients of the second step, or None to leave it out."""
        ...


recipes: Registry[Recipe] = Registry("recipe", "holdfast.recipes")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that training moves, by name, tied ones once; frozen ones are neither moved nor hit."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad and name != BOUNDS}


def loss_and_gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    keep_buffers: bool,
    label_smoothing: float = 0.0,
) -> tuple[Loss, list[Tensor]]:
    """Return the cross-entropy at ``weights`` (name -> values of the parameters) and its gradients there.

    Args:
        model: its own values stand in for every parameter that ``weights`` leaves out.
        weights: where to evaluate; unused ones have zero gradients.
        images: a batch, shape (n, ...).
        labels: int64, shape (n,).
        keep_buffers: leave running statistics untouched: they then come from another pass alone.
        label_smoothing: share of the target spread evenly over all classes.

    Raises:
        InvalidConfig: the model returns anything but one tensor.
    """
    result, found = loss_and_gradients_there(
        model, weights, images, labels, keep_buffers=keep_buffers, label_smoothing=label_smoothing
    )
    return Loss.read([result])[0], found


def loss_and_gradients_there(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    keep_buffers: bool,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, list[Tensor]]:
    """Return (loss, share that is wrong), float64 (2,), and the gradients, as :func:`loss_and_gradients` does.

    All of it stays on the device, and nothing is waited for: a step of several passes reads its losses at once.
    """

    def call(weights: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _passed(model, weights, images, labels, keep_buffers, label_smoothing)

    graphs = graphs_of(model)
    if graphs is None:
        return call(weights, images, labels)
    return graphs.run(call, (keep_buffers, label_smoothing, model.training), weights, images, labels)


def _passed(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    keep_buffers: bool,
    label_smoothing: float,
) -> tuple[Tensor, list[Tensor]]:
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    buffers = {name: value.clone() for name, value in model.named_buffers()} if keep_buffers else {}
    outputs = logits_of(functional_call(model, {**leaves, **buffers}, (images,)))
    if not isinstance(outputs, Tensor):
        raise InvalidConfig(f"the model returns a {type(outputs).__name__}", hint="training needs one tensor of logits")
    loss = cross_entropy(_at_least_float32(outputs), labels, label_smoothing=label_smoothing)
    with torch.autocast(images.device.type, enabled=False):  # backward passes keep the precision of their forward pass
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    wrong = (outputs.detach().argmax(1) != labels).float().mean()
    return torch.stack([loss.detach().double(), wrong.double()]), list(found)


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs if outputs.dtype == torch.float64 else outputs.float()
