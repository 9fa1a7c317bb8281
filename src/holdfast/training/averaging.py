"""The exponential moving average of a training's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """``average = tau * average + (1 - tau) * weights`` after every step, from the weights at the start.

    Running statistics are averaged alike, since those of the last weights would not fit averaged ones. What is no
    float, such as a counter, is the model's own.
    """

    def __init__(self, model: nn.Module, tau: float) -> None:
        self.tau = tau
        self.values = {name: value.detach().clone() for name, value in tensors_of(model).items()}

    def update(self, model: nn.Module) -> None:
        """Take in what ``model`` holds now."""
        for name, value in tensors_of(model).items():
            if value.is_floating_point():
                self.values[name].lerp_(value.detach(), 1 - self.tau)
            else:
                self.values[name].copy_(value)

    def store(self, model: nn.Module) -> None:
        """Give ``model`` the average."""
        fill(model, self.values)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and all buffers of ``model`` by name, shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy ``values`` into the tensors of ``model`` that have their names."""
    with torch.no_grad():
        for name, value in tensors_of(model).items():
            value.copy_(values[name])
