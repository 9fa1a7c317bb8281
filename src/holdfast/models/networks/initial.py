"""Initial weights (He et al., ICCV 2015), drawn from the generator that ``build_architecture`` has seeded."""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def kaiming(model: M, mode: Literal["fan_in", "fan_out"]) -> M:
    """Draw the weights of every convolution and linear layer for ReLU; their biases become zero.

    Normalisation layers begin as the identity of their kind already: scale 1, or a' = 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
