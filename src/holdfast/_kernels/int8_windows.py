"""How the windows of a convolution lie in an image of channels last, so that they can be read there and not gathered.

With channels last, neighbouring pixels of a line are neighbouring bytes, so a window of an image whose margins are
there already is a few stretches of bytes: one for each of its lines, or one for each pixel where dilation or groups
part them. Weights are stored in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_GRAIN = 16  # bytes that a device reads at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """A convolution without its weights; a linear layer is one of images of one pixel.

    Attributes:
        outputs: channels of the result, of all groups together.
        inputs: channels of the image, likewise.
        kernel, stride, dilation: down and to the right.
        padding: zeros at left, right, top, bottom.
        groups: parts of the channels that do not meet.
    """

    outputs: int
    inputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @property
    def depth(self) -> int:
        """Bytes of a pixel: the channels, and so many zeros that reads of a pixel are aligned."""
        if self.groups > 1 or self.pixel:
            return self.inputs
        grain = min(_GRAIN, max(4, 1 << (self.inputs - 1).bit_length()))
        return -(-self.inputs // grain) * grain

    @property
    def pixel(self) -> bool:
        """Whether a window is one pixel and the image has no margins."""
        return self.kernel == (1, 1) and not any(self.padding)

    @property
    def columns(self) -> int:
        """Stretches in one line of a window."""
        return self.kernel[1] if self.groups > 1 or self.dilation[1] > 1 else 1

    @property
    def run(self) -> int:
        """Bytes of one stretch."""
        if self.groups > 1:
            return self.inputs // self.groups
        return self.depth * (self.kernel[1] // self.columns)

    def places(self, high: int, wide: int) -> tuple[int, int]:
        """Return how many windows an image has, down and to the right; its margins are counted in ``high, wide``."""
        sides = zip((high, wide), self.kernel, self.dilation, self.stride, strict=True)
        down, along = ((side - dilated * (size - 1) - 1) // step + 1 for side, size, dilated, step in sides)
        return down, along

    def weights(self, codes: Tensor) -> Tensor:
        """Return int8 ``codes`` (outputs, inputs / groups, *kernel) in the order of a window: (outputs, taps, run)."""
        last = codes.reshape(self.outputs, -1, *self.kernel).permute(0, 2, 3, 1)
        if self.groups == 1 and self.depth != self.inputs:
            last = torch.nn.functional.pad(last, (0, self.depth - self.inputs))
        return last.reshape(self.outputs, -1, self.run).contiguous()

    def images(self, planes: Tensor) -> Tensor:
        """Return int8 ``planes`` (planes, batch, channels, height, width) with margins and channels last.

        The result has shape (planes, batch, height, width, depth); it is ``planes`` itself where nothing has to move.
        """
        count, batch, channels, high, wide = planes.shape
        if self.pixel and high * wide == 1:
            return planes.contiguous().view(count, batch, 1, 1, channels)
        left, right, top, bottom = self.padding
        sides = (count, batch, high + top + bottom, wide + left + right, self.depth)
        full = sides == (count, batch, high, wide, channels)
        made = torch.empty(sides, dtype=torch.int8, device=planes.device) if full else planes.new_zeros(sides)
        made[:, :, top : top + high, left : left + wide, :channels].copy_(planes.permute(0, 1, 3, 4, 2))
        return made

    def unrolled(self, images: Tensor) -> Tensor:
        """Return every window of :meth:`images` as one row, (planes * batch * positions, taps * run); without groups.

        This copies each pixel as often as windows hold it; it is what a plain matrix product needs.
        """
        count, batch, high, wide, depth = images.shape
        line, sides = wide * depth, (count * batch, *self.places(high, wide), *self.kernel, depth)
        step = (self.stride[0] * line, self.stride[1] * depth)
        strides = (high * line, *step, self.dilation[0] * line, self.dilation[1] * depth, 1)
        return images.as_strided(sides, strides).reshape(-1, math.prod(self.kernel) * depth)
