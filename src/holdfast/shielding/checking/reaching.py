"""Which output position each pixel of an image reaches through each tap of a convolution's kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from holdfast.shielding.product import Geometry


def reach(geometry: Geometry, shape: tuple[int, ...]) -> Tensor:
    """Say where each input pixel goes: int64 (taps, pixels), an output position, or ``positions`` for nowhere.

    Args:
        shape: of one image, (channels, height, width).
    """
    _, high, wide = geometry.output_shape(shape)
    rows = axis_reach(geometry, 0, shape[1], high)
    across = axis_reach(geometry, 1, shape[2], wide)
    places = rows[:, None, :, None] * wide + across[None, :, None, :]
    inside = (rows >= 0)[:, None, :, None] & (across >= 0)[None, :, None, :]
    return torch.where(inside, places, high * wide).reshape(math.prod(geometry.kernel), shape[1] * shape[2])


def axis_reach(geometry: Geometry, axis: int, side: int, outputs: int) -> Tensor:
    """Return the output coordinate of each tap (rows) and input coordinate (columns), or -1."""
    before = geometry.padding[2 if axis == 0 else 0]
    taps = torch.arange(geometry.kernel[axis]).view(-1, 1) * geometry.dilation[axis]
    from_start = torch.arange(side).view(1, -1) + before - taps
    place = from_start.div(geometry.stride[axis], rounding_mode="floor")
    fits = (from_start % geometry.stride[axis] == 0) & (place >= 0) & (place < outputs)
    return torch.where(fits, place, -1)
