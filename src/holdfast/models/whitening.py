"""Whitening as the first layer of a network, so that it travels with the model and not with the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig


class Whitening(nn.Module):
    """``(x - mean) / std`` per channel, after clamping ``x`` to 0..1: (batch, channels, height, width) to the same.

    The constants are buffers: no optimiser moves them, no quantiser stores them as codes, and faults in ``weights``
    do not reach them (Stutz et al. leave them out likewise). Until they are set, pixels pass as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take the constants, one per channel, in units of pixels in 0..1.

        Raises:
            InvalidConfig: another number of constants than channels, a std that is not positive, or NaN.
        """
        if not len(mean) == len(std) == len(self.mean):
            raise InvalidConfig(f"whitening {len(self.mean)} channels takes as many means and stds")
        if not all(map(math.isfinite, (*mean, *std))) or not all(value > 0 for value in std):
            raise InvalidConfig("whitening takes finite means and positive stds", hint="a constant channel has no std")
        with torch.no_grad():
            self.mean.copy_(torch.tensor(list(mean)))
            self.std.copy_(torch.tensor(list(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.clamp(0, 1) - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)


def whitening_of(model: nn.Module) -> Whitening | None:
    """Return the whitening layer of ``model``, or None when it has none."""
    return next((module for module in model.modules() if isinstance(module, Whitening)), None)
