"""Normalisation layers by name, among them the reparameterised ones that weight clipping needs.

Clipping every parameter to [-w_max, w_max] would hold an ordinary scale far below one and shrink the activations layer
by layer. Stutz et al. (MLSys 2021, appendix on weight clipping) therefore write the scale as 1 + a' and learn, clip,
quantise and expose a' to bit errors instead; ``weight`` is their a'.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig

_GROUPS = (32, 24, 16, 8)


class ReparameterizedGroupNorm(nn.Module):
    """Group norm with scale ``1 + weight`` and offset ``bias``: (batch, channels, ...) to the same.

    Not a subclass of ``nn.GroupNorm``: its ``weight`` lies around zero, not one.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, 1 + self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{self.groups}, {len(self.weight)}, eps={self.eps}"


class ReparameterizedBatchNorm(nn.Module):
    """Batch norm with scale ``1 + weight`` and offset ``bias``: (batch, channels, ...) to the same."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, 1 + self.weight, self.bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"


def groups_of(channels: int) -> int:
    """Return how many groups normalise ``channels``: the first of 32, 24, 16, 8 that divides them.

    Each is capped at half the channels; where none fits, all channels form one group.
    """
    capped = (min(groups, channels // 2) for groups in _GROUPS)
    return next((groups for groups in capped if groups and channels % groups == 0), 1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "gn": lambda channels: nn.GroupNorm(groups_of(channels), channels),
    "rebn": ReparameterizedBatchNorm,
    "regn": lambda channels: ReparameterizedGroupNorm(groups_of(channels), channels),
    "fixedbn": lambda channels: nn.BatchNorm2d(channels, affine=False),
    "fixedgn": lambda channels: nn.GroupNorm(groups_of(channels), channels, affine=False),
    "none": lambda _: nn.Identity(),
}


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Return the normalisation ``kind`` over ``channels`` feature maps.

    Args:
        kind: bn, gn; rebn, regn with scale 1 + a'; fixedbn, fixedgn without scale and offset; none.
        channels: of the input, (batch, channels, height, width).

    Raises:
        UnknownName: no such kind.
        InvalidConfig: no channels.
    """
    if channels < 1:
        raise InvalidConfig(f"a layer has at least one channel, not {channels}")
    if kind not in NORMS:
        raise unknown("norm", kind, NORMS)
    return NORMS[kind](channels)
