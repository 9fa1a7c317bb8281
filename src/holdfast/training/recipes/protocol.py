"""What the training loop asks of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from holdfast._registry import Registry
from holdfast.seeds import Seed


@dataclass(frozen=True)
class Schedule:
    """SGD with Nesterov momentum 0.9; the learning rate falls tenfold at 2/5, 3/5 and 4/5 of the epochs."""

    epochs: int = 30
    lr: float = 0.05
    batch_size: int = 128
    weight_decay: float = 5e-4


class Recipe(Protocol):
    """Turns a batch into gradients of the master weights."""

    @property
    def schedule(self) -> Schedule:
        """Optimiser settings."""
        ...

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[float, list[Tensor]]:
        """Return the clean loss and one gradient per ``model.parameters()``; ``last_loss`` is the batch's before."""
        ...

    def project(self, model: nn.Module) -> None:
        """Constrain the master weights, before each step and at the end."""
        ...


recipes: Registry[Recipe] = Registry("recipe", "holdfast.recipes")


def loss_and_gradients(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor, *, keep_buffers: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return the cross-entropy at ``weights`` (name -> values of the parameters) and its gradients there.

    ``keep_buffers`` leaves running statistics untouched: they then come from the clean pass alone.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    buffers = {name: value.clone() for name, value in model.named_buffers()} if keep_buffers else {}
    loss = cross_entropy(functional_call(model, {**leaves, **buffers}, (images,)), labels)
    return loss.detach(), list(torch.autograd.grad(loss, list(leaves.values())))
