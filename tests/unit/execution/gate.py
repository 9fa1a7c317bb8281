"""A model of one weight, whose robust error can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.execution import inject
from holdfast.faults import BitErrors
from holdfast.seeds import derive

SIGN = (("weights:weight", 1 << 31),)


class Gate(nn.Module):
    """Answers class 0 where ``weight * x`` is positive, else class 1; one fp32 weight, stored as 1.0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        product = x.flatten(1) * self.weight
        return torch.cat((product, torch.zeros_like(product)), 1)


def images(*values: float, labels: Sequence[int]) -> Dataset:
    """Return one-pixel images."""
    pixels = torch.tensor(values).view(-1, 1, 1, 1)
    return Dataset("by hand", pixels, torch.tensor(labels), ("positive", "negative"))


ONE = images(1.0, labels=[0])
TWO = images(1.0, -1.0, labels=[0, 0])  # the second is wrong without any fault


def sign_flips(rate: float, chips: int, seed: int = 0) -> list[bool]:
    """Say which chips flip the sign, looking at the weight itself."""
    model, found = Gate(), []
    for chip in range(chips):
        with inject(model, BitErrors(rate=rate), seed=derive(seed, "chip", chip)):
            found.append(bool(torch.signbit(model.weight)))
    return found
