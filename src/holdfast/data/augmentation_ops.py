"""Operations on pixels, batched: what Pillow's ``ImageOps`` and ``ImageEnhance`` compute for one image at a time.

Images are float tensors (n, channels, height, width) that hold whole levels 0..255, and so is every result. A strength
is a float64 tensor (n,) on the same device, one for each image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in units of 2**-16, as Pillow rounds it
_HALF, _ONE = 1 << 15, 1 << 16
_SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))


def invert(images: Tensor) -> Tensor:
    """Return the negative."""
    return 255 - images


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Return ``images`` with the levels at and above ``threshold`` inverted."""
    return torch.where(images < _each(threshold), images, 255 - images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Return ``images`` with only the ``bits`` highest bits of each level."""
    step = _each(2.0 ** (8 - bits)).to(images)
    return (images / step).floor() * step


def autocontrast(images: Tensor) -> Tensor:
    """Return each channel stretched so that its darkest level is 0 and its brightest 255."""
    low, high = images.amin((2, 3), keepdim=True).double(), images.amax((2, 3), keepdim=True).double()
    scale = torch.full_like(high, 255) / (high - low).clamp(min=1)  # a scalar divided by a tensor is rounded twice
    stretched = (images * scale - low * scale).trunc().clamp(0, 255)
    return torch.where(high > low, stretched.to(images), images)


def equalize(images: Tensor) -> Tensor:
    """Return each channel with its histogram flattened, by Pillow's rounding of the cumulative count."""
    count, channels, height, width = images.shape
    levels = images.reshape(count * channels, height * width).long()
    histogram = torch.zeros(count * channels, 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels))
    brightest = levels.amax(1, keepdim=True)
    step = (height * width - histogram.gather(1, brightest)) // 255
    below = histogram.cumsum(1) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(1, levels).view(images.shape).to(images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return ``images`` blended with black: ``factor`` 0 is black, 1 the original, more is brighter."""
    return _blend(torch.zeros_like(images), images, factor)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Return ``images`` blended with their grey version; a single channel is grey already."""
    return _blend(_grey(images), images, factor) if images.shape[1] == 3 else images


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return ``images`` blended with their mean grey level."""
    level = (_grey(images).double().mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return _blend(level.to(images).expand_as(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Return ``images`` blended with their smoothed version, whose border is the original's."""
    kernel = torch.tensor(_SMOOTH, device=images.device, dtype=images.dtype).view(1, 1, 3, 3)
    inner = F.conv2d(images.reshape(-1, 1, *images.shape[2:]), kernel).view(*images.shape[:2], *_inner(images))
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (inner / 13 + 0.5).floor()
    return _blend(smooth, images, factor)


def affine(images: Tensor, matrix: Tensor, fill: Tensor) -> Tensor:
    """Return images that show at (x, y) the nearest pixel to (a x + b y + c, d x + e y + f) in the input.

    Args:
        images: levels.
        matrix: (a, b, c, d, e, f) of each image, float64, shape (n, 6); the origin is the image's upper left corner,
            so pixel (0, 0) has its centre at (0.5, 0.5).
        fill: levels for what lies outside, shape (1, channels, 1, 1).
    """
    count, channels, height, width = images.shape
    # fixed point with 16 fractional bits, as Pillow: the same pixels on every device
    a, b, c, d, e, f = (_fixed(column).view(-1, 1, 1) for column in _at_centres(matrix).unbind(1))
    x = torch.arange(width, device=images.device).view(1, 1, -1)
    y = torch.arange(height, device=images.device).view(1, -1, 1)
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(count, 1, -1)
    taken = images.flatten(2).gather(2, place.expand(-1, channels, -1)).view(images.shape)
    return torch.where(inside.unsqueeze(1), taken, fill)


def shear(images: Tensor, x: Tensor, y: Tensor, fill: Tensor) -> Tensor:
    """Return images sheared about their upper left corner, ``x`` and ``y`` in pixels per pixel."""
    one, none = torch.ones_like(x), torch.zeros_like(x)
    return affine(images, torch.stack((one, x, none, y, one, none), 1), fill)


def translate(images: Tensor, x: Tensor, y: Tensor, fill: Tensor) -> Tensor:
    """Return images read from ``x``, ``y`` pixels to the right and below."""
    one, none = torch.ones_like(x), torch.zeros_like(x)
    return affine(images, torch.stack((one, none, x, none, one, y), 1), fill)


def rotate(images: Tensor, degrees: Tensor, fill: Tensor) -> Tensor:
    """Return images turned counter-clockwise about their centre."""
    cos, sin = (-degrees).deg2rad().cos(), (-degrees).deg2rad().sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    shifts = (x - cos * x - sin * y, y + sin * x - cos * y)
    return affine(images, torch.stack((cos, sin, shifts[0], -sin, cos, shifts[1]), 1), fill)


def _at_centres(matrix: Tensor) -> Tensor:
    """Return the matrix that takes whole pixel numbers, so that their centres are what is mapped."""
    a, b, c, d, e, f = matrix.unbind(1)
    return torch.stack((a, b, c + (a + b) / 2, d, e, f + (d + e) / 2), 1)


def _fixed(values: Tensor) -> Tensor:
    return (values * _ONE + 0.5).floor().long()


def _blend(first: Tensor, second: Tensor, factor: Tensor) -> Tensor:
    return (first + _each(factor).to(first) * (second - first)).clamp(0, 255).floor()


def _grey(images: Tensor) -> Tensor:
    """Return the luma of each pixel in every channel."""
    if images.shape[1] != 3:
        return images
    weights = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    luma = ((images.long() * weights).sum(1, keepdim=True) + _HALF) >> 16
    return luma.to(images).expand_as(images)


def _inner(images: Tensor) -> tuple[int, int]:
    return images.shape[2] - 2, images.shape[3] - 2


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
