"""All that a training is between two epochs: what a snapshot holds, and what it restores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.training.averaging import Average, fill, tensors_of
from holdfast.training.schedule import Schedule

_MOMENTUM = "momentum_buffer"  # torch.optim.SGD's name


@dataclass
class State:
    """The state of a training; random streams need none, since each is a function of seed, epoch and batch."""

    model: nn.Module
    optimiser: torch.optim.SGD
    average: Average | None
    epoch: int = 0  # epochs done
    loss: float = math.inf  # of the last batch

    @classmethod
    def fresh(cls, model: nn.Module, schedule: Schedule) -> State:
        """Return the state before the first batch; ``model`` is moved by the training from here on.

        Raises:
            InvalidConfig: every parameter is frozen.
        """
        parameters = [value for value in model.parameters() if value.requires_grad]
        if not parameters:
            raise InvalidConfig("every parameter is frozen, so there is nothing to train")
        optimiser = torch.optim.SGD(
            parameters,
            schedule.lr,
            momentum=schedule.momentum,
            nesterov=schedule.momentum > 0,
            weight_decay=schedule.weight_decay,
        )
        return cls(model, optimiser, None if schedule.ema is None else Average(model, schedule.ema))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors by name: ``model.*``, ``momentum.*`` and ``average.*``."""
        found = {f"model.{name}": value.detach() for name, value in tensors_of(self.model).items()}
        for name, value in self.model.named_parameters():
            momentum = self.optimiser.state.get(value, {}).get(_MOMENTUM)
            if momentum is not None:
                found[f"momentum.{name}"] = momentum
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.values.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor], epoch: int, loss: float) -> None:
        """Become the state that :meth:`tensors` described."""
        fill(self.model, _part(tensors, "model."))
        momentum = _part(tensors, "momentum.")
        for name, value in self.model.named_parameters():
            if name in momentum:
                self.optimiser.state[value][_MOMENTUM] = momentum[name].to(value.device, copy=True)
        if self.average is not None:
            for name, kept in _part(tensors, "average.").items():
                self.average.values[name].copy_(kept)
        self.epoch, self.loss = epoch, loss


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
