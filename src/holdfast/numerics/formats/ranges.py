"""From the extremes of a tensor to the scale of its codes: the one moment at which ranges are derived."""

from __future__ import annotations

import torch
from torch import Tensor

# the scale of an all-zero tensor: positive, so that zero encodes, and so small that no fault makes a number of it
LEAST_SCALE = 2.0**-126


def symmetric_range(least: Tensor, most: Tensor, bound: Tensor, bits: int) -> dict[str, Tensor]:
    """Return ``scale`` and ``low`` (zero) of steps within ``[-bound, bound]``.

    Args:
        least: float64 minimum of each part of a tensor, any shape.
        most: its maximum, same shape.
        bound: float64, same shape; at least the larger magnitude of both, or the bound that clips them.
        bits: width of a code.
    """
    steps = 2 ** (bits - 1) - 1
    scale = positive(bound / steps, bits)
    scale = torch.where((most == least) & (most != 0), _exact(most.abs().minimum(bound), bits, scale), scale)
    return {"scale": scale, "low": torch.zeros_like(scale)}


def _exact(constant: Tensor, bits: int, otherwise: Tensor) -> Tensor:
    """Return a scale of which ``constant`` is a whole multiple, as large a one as its codes allow.

    A constant over its largest step is often no float32, but over a power of two it always is, above the subnormals.
    """
    result = torch.full_like(otherwise, torch.nan)
    for steps in (2 ** (bits - 1) - 1, 2 ** (bits - 2), 1):
        scale = constant.to(otherwise.dtype) / steps
        hits = (scale.double() * steps).float() == constant.float()
        result = torch.where(torch.isnan(result) & hits & (scale > 0), scale, result)
    return torch.where(torch.isnan(result), otherwise, result)


def asymmetric_range(
    least: Tensor, most: Tensor, span: tuple[int, int], epsilon: float, bits: int
) -> dict[str, Tensor]:
    """Return ``scale`` and ``low`` of steps ``span`` that cover ``[least, most]``, widened by ``epsilon`` of it.

    ``low`` is the value of step zero: the middle of a balanced span, the low end of any other.
    """
    balanced = span[0] < 0
    middle = (least + most) / 2
    low = (torch.where(most == least, least, middle) if balanced else least).to(_dtype(bits))
    # from the stored low end, or the greatest value would fall beyond the last step
    reach = (most - least) / 2 if balanced else most - low.double()
    # a step below the spacing of float32 at the ends would merge neighbouring codes
    spacing = torch.maximum(most.abs(), least.abs()) * (2.0**-22 if bits < 32 else 2.0**-51)
    return {"scale": positive(torch.maximum(reach * (1 + epsilon) / span[1], spacing), bits), "low": low}


def positive(scale: Tensor, bits: int = 8) -> Tensor:
    """Return ``scale`` as stored (float32; float64 for 32 bits), never below :data:`LEAST_SCALE`."""
    return scale.clamp(min=LEAST_SCALE).to(_dtype(bits))


def _dtype(bits: int) -> torch.dtype:
    return torch.float64 if bits == 32 else torch.float32
