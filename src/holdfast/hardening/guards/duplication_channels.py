"""Duplication of single channels: the feature maps or neurons of a layer that a budget allows, and no others.

HarDNN (Mahmoud et al., 2020) duplicates the most vulnerable feature maps of a convolution. Computing some channels
alone takes another kernel than computing all, and so another order of additions. Two results of one element therefore
count as equal where rounding may explain the difference: with x at most X in magnitude and w the K weights of the
channel, a partial sum is at most sqrt(K) X |w|, and two chains of K + 1 additions differ by a standard deviation of at
most u sqrt(2 (K + 1) / 3) times that; an output stored in 16 bits may be rounded to either neighbour.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import InvalidConfig
from holdfast.hardening.guards.checksum_rounding import FALSE_ALARMS, Rounding, deviations
from holdfast.hardening.guards.checksum_sums import weight_and_bias
from holdfast.models import Site
from holdfast.models.guard import Operands, guards


def has_channels(layer: nn.Module | None) -> bool:
    """Say whether single outputs of a layer can be computed: linear, or a convolution in one group."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1)


def channel_of(layer: nn.Module, site: Site, element: int) -> int:
    """Return the channel of a flat ``element`` of one sample at the layer's ``site``."""
    outputs = len(layer.get_parameter("weight"))
    return element % outputs if isinstance(layer, nn.Linear) else element // (site.numel // outputs)


@guards.register("duplicate-channels")
class ChannelGuard:
    """Computes some channels of a layer twice on every pass, and the layer again where they differ.

    Args:
        site: a linear layer, or a convolution in one group.
        channels: outputs that are duplicated.

    Attributes:
        events: int64, shape (batch,): elements that were replaced by those of a second full computation.
        alarms: int64, shape (batch,): elements that two full computations give, but their own channel alone does not.

    Raises:
        InvalidConfig: no channels.
    """

    kind = "duplicate-channels"
    operands = True

    def __init__(self, site: str, channels: list[int]) -> None:
        if not channels or min(channels) < 0:
            raise InvalidConfig(f"{site} has no channels {channels} to duplicate")
        self.site, self.channels = site, sorted(channels)
        self.events: Tensor | None = None
        self.alarms: Tensor | None = None

    def __call__(self, output: Tensor, operands: Operands) -> Tensor:
        """Return the output (batch, ...), corrected where a duplicated channel differs.

        Raises:
            InvalidConfig: the layer has no such channels.
        """
        layer, given = operands.call, operands.args[0]
        if not isinstance(layer, nn.Module) or not has_channels(layer) or self.channels[-1] >= len(layer.weight):  # type: ignore[arg-type]
            raise InvalidConfig(f"{self.site} has no channels {self.channels} that could be computed alone")
        index = torch.tensor(self.channels, device=output.device)
        alone, allowed = _alone(layer, given, index), _allowed(layer, given, index)
        wrong = self._wrong(layer, output, alone, allowed)
        if not wrong.any():
            self.events = self.alarms = torch.zeros(len(output), dtype=torch.int64)
            return output
        fresh: Tensor = operands.again()
        split = self._wrong(layer, fresh, alone, allowed)
        self.events, self.alarms = (mask.reshape(len(output), -1).sum(1) for mask in (wrong & ~split, split))
        changed = torch.zeros_like(output, dtype=torch.bool).index_copy_(_axis(layer, output), index, wrong)
        result = torch.where(changed, fresh, output)
        return result if output.requires_grad else output.copy_(result)

    def _wrong(self, layer: nn.Module, output: Tensor, alone: Tensor, allowed: Tensor) -> Tensor:
        axis = _axis(layer, output)
        index = torch.tensor(self.channels, device=output.device)
        seen = output.detach().index_select(axis, index).double()
        shape = [1] * output.dim()
        shape[axis] = len(index)
        tolerance = allowed.view(shape) + Rounding.of(output).stored * 2 * (seen.abs() + alone.abs())
        return ~((seen - alone).abs() <= tolerance) | ~seen.isfinite()

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and channels."""
        return {"kind": self.kind, "site": self.site, "channels": self.channels}


def _axis(layer: nn.Module, output: Tensor) -> int:
    return output.dim() - 1 if isinstance(layer, nn.Linear) else 1


def _alone(layer: nn.Module, given: Tensor, index: Tensor) -> Tensor:
    """Return channels ``index`` of the layer's output, computed without the others, fp64."""
    weight, bias = weight_and_bias(layer)
    some, shift = weight.detach()[index], None if bias is None else bias.detach()[index]
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        found: Tensor = layer._conv_forward(given.detach(), some, shift)
        return found.double()
    return F.linear(given.detach(), some, shift).double()


def _allowed(layer: nn.Module, given: Tensor, index: Tensor) -> Tensor:
    """Return how far two computations of each channel may be apart before they are stored, fp64, shape (channels,)."""
    weight, bias = weight_and_bias(layer)
    rows = weight.detach()[index].flatten(1).double()
    rounding, chain = Rounding.of(weight), rows.shape[1]
    low, high = given.detach().aminmax()
    largest = torch.maximum(high, -low).double()
    sizes = math.sqrt(chain) * largest * rows.norm(dim=1)
    if bias is not None:
        sizes = sizes + bias.detach()[index].double().abs()
    relative = deviations(FALSE_ALARMS) * rounding.unit * math.sqrt(2 * (chain + 1) / 3)
    allowed: Tensor = relative * sizes + rounding.least
    return allowed
