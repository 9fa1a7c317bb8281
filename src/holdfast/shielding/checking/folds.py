"""Ways to compare ``y`` with ``W x`` over Z/2^64: fold the channels, fold the positions, or compute it again.

A product ``Y = W X`` is a matrix of ``out`` channels by ``positions``. Freivalds' secret vector may be multiplied in
from either side, with the same proof: ``r^T Y == (r^T W) X`` costs one row of weights where there are many, and
``Y s == W (X s)`` costs one column of positions where there are many. Images with many positions are cheaper from the
right, deep layers from the left, and a layer of three input channels is as cheap to compute again.

All secret residues are cut into eight int8 digits, so both sides run on the int8 matrix units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.shielding.checking.limbs import DIGITS, digits, folded, recombine, recombine_rows, wide_digits
from holdfast.shielding.checking.reaching import reach
from holdfast.shielding.kernels import MOST_INNER, kernel, true_matmul
from holdfast.shielding.product import Geometry, integer_product

_LOW_HALVES = 0x00808080  # 128 in the three low bytes of an int32
_FLOAT64_BITS, _INT32_BITS = 53, 31
_SMALL = 2**14
_BLOCK = 4096  # positions whose float64 copy stays in a processor's second cache
_WIDEST = MOST_INNER // 4


class Fold(Protocol):
    """Both sides of one layer's comparison, for inputs of one shape."""

    def left(self, x: Tensor) -> Tensor | list[int]:
        """Return what the true product of int8 ``x`` (batch, *sample) folds to."""
        ...

    def right(self, y: Tensor) -> Tensor | list[int]:
        """Return what the claimed int32 product ``y`` (batch, *output) folds to."""
        ...


class RowFold:
    """``r^T Y == (r^T W) X`` for every row of a linear layer; needs ``r^T W``, not the weights.

    Args:
        r: int64 residues modulo 2**64, shape (out,).
        codes: int8 weights, shape (out, in).
    """

    def __init__(self, r: Tensor, codes: Tensor) -> None:
        self._digits = digits(folded(r, codes)).t().contiguous()  # (8, in)
        bytes_, self._offset = _byte_digits(r)
        self._bytes = bytes_.t().contiguous()  # (8, 4 * out)

    def left(self, x: Tensor) -> Tensor:
        """Return ``r^T W X``, int64, shape (rows,)."""
        return recombine(true_matmul(x.reshape(-1, self._digits.shape[1]), self._digits.t()))

    def right(self, y: Tensor) -> Tensor:
        """Return ``r^T Y``, int64, of the same shape."""
        words = (y.reshape(-1, y.shape[-1]).contiguous() ^ _LOW_HALVES).view(torch.int8)
        return recombine(true_matmul(words, self._bytes.t())) + self._offset


class ChannelFold:
    """``r^T Y == (r^T W) X`` at every position of a convolution; needs ``r^T W``, not the weights.

    Args:
        r: int64 residues modulo 2**64, shape (out,).
        codes: int8 weights, shape ``geometry.weight_shape``.
        shape: of one image.
    """

    def __init__(self, r: Tensor, codes: Tensor, geometry: Geometry, shape: tuple[int, ...]) -> None:
        self._matmul = kernel(codes.device.type).matmul
        bits = _FLOAT64_BITS - _INT32_BITS - (geometry.out_channels - 1).bit_length() + 1
        self._limbs = wide_digits(r, bits, -(-64 // bits))
        self._shifts = torch.arange(len(self._limbs), device=r.device).view(-1, 1) * bits
        per_tap = folded(r, codes).view(geometry.in_channels, -1).t()  # (taps, in)
        self._digits = digits(per_tap).transpose(1, 2).reshape(-1, geometry.in_channels).contiguous()
        self._places = reach(geometry, shape).flatten().to(codes.device)
        self._positions = math.prod(geometry.output_shape(shape)[1:])

    @staticmethod
    def cost(geometry: Geometry, shape: tuple[int, ...]) -> float:
        """Return a rough number of nanoseconds for one sample."""
        out = math.prod(geometry.output_shape(shape))
        pixels = math.prod(geometry.kernel) * math.prod(shape[1:])
        return pixels * (0.006 * DIGITS * geometry.in_channels + 0.5 * DIGITS + 2.0) + 0.55 * out + 4e4

    def left(self, x: Tensor) -> Tensor:
        """Return ``r^T W X``, int64, shape (batch, positions)."""
        return _each(self._scatter, x)

    def _scatter(self, image: Tensor) -> Tensor:
        """Multiply every pixel by every tap, then add each product where its tap takes it."""
        products = self._matmul(self._digits, image).view(-1, DIGITS, image.shape[1])
        sums = self._places.new_zeros(self._positions + 1)
        return sums.index_add_(0, self._places, recombine_rows(products).view(-1))[:-1]

    def right(self, y: Tensor) -> Tensor:
        """Return ``r^T Y``, int64, of the same shape."""
        return _each(self._wide, y)

    def _wide(self, matrix: Tensor) -> Tensor:
        """Return ``r^T matrix`` for int32 (out, positions); every partial sum is exact in float64."""
        if matrix.shape[1] > _BLOCK:
            return torch.cat([self._wide(block) for block in matrix.split(_BLOCK, 1)])
        return ((self._limbs @ matrix.double()).long() << self._shifts).sum(0)


class PositionFold:
    """``Y s == W (X s)`` for every channel and image of a convolution.

    Args:
        s: int64 residues modulo 2**64, shape (positions,).
        codes: int8 weights, shape ``geometry.weight_shape``.
        shape: of one image.
    """

    def __init__(self, s: Tensor, codes: Tensor, geometry: Geometry, shape: tuple[int, ...]) -> None:
        self._weights = codes.reshape(geometry.out_channels, -1)
        self._matmul = kernel(codes.device.type).matmul
        spread = torch.cat([s, s.new_zeros(1)])[reach(geometry, shape).to(s.device)]  # (taps, pixels)
        self._spread = digits(spread).permute(1, 0, 2).reshape(spread.shape[1], -1).contiguous()
        self._bytes, self._offset = _byte_digits(s)

    @staticmethod
    def fits(geometry: Geometry, shape: tuple[int, ...]) -> bool:
        """Say whether every sum stays exact: a convolution whose images are not too large."""
        if geometry.kind != "conv2d" or geometry.inner > MOST_INNER:
            return False
        return math.prod(shape[1:]) <= MOST_INNER and math.prod(geometry.output_shape(shape)[1:]) <= _WIDEST

    @staticmethod
    def cost(geometry: Geometry, shape: tuple[int, ...], batch: int) -> float:
        """Return a rough number of nanoseconds for one sample of ``batch``, which share one pass over the weights."""
        pixels, out = math.prod(shape[1:]), math.prod(geometry.output_shape(shape))
        products = DIGITS * pixels * (0.006 * geometry.inner + 0.05 * math.prod(geometry.kernel))
        once = 0.1 * geometry.out_channels * geometry.inner + 7e4
        return products + 0.55 * out + 3e4 + once / batch

    def left(self, x: Tensor) -> Tensor:
        """Return ``W (X s)``, int64, shape (batch, out)."""
        sums = _each(self._fold_pixels, x)
        folded = digits(recombine(sums.view(x.shape[0], -1, DIGITS)))  # (batch, inner, 8)
        products = self._matmul(self._weights, folded.transpose(0, 1).reshape(folded.shape[1], -1))
        return recombine(products.view(-1, x.shape[0], DIGITS)).t()

    def right(self, y: Tensor) -> Tensor:
        """Return ``Y s``, int64, of the same shape.

        Images go one by one, so that their copies stay in the cache.
        """
        return recombine(_each(self._fold_words, y.contiguous())) + self._offset

    def _fold_pixels(self, image: Tensor) -> Tensor:
        return self._matmul(image, self._spread)

    def _fold_words(self, image: Tensor) -> Tensor:
        return self._matmul((image ^ _LOW_HALVES).view(torch.int8), self._bytes)


class Recomputation:
    """The product itself; nothing to guess and nothing to fold."""

    def __init__(self, codes: Tensor, geometry: Geometry) -> None:
        self._codes, self._geometry = codes, geometry

    @staticmethod
    def cost(geometry: Geometry, shape: tuple[int, ...]) -> float:
        """Return a rough number of nanoseconds for one sample."""
        out = geometry.output_shape(shape)
        positions = math.prod(out) / geometry.out_channels
        return math.prod(out) * (0.005 * geometry.inner + 0.35) + 0.3 * geometry.inner * positions + 2.5e4

    def left(self, x: Tensor) -> Tensor:
        """Return ``W X``, int32, shape (batch, *output)."""
        return integer_product(x, self._codes, self._geometry)

    def right(self, y: Tensor) -> Tensor:
        """Return ``y``."""
        return y


def same(left: Tensor | list[int], right: Tensor | list[int]) -> bool:
    """Say whether two lists, or two tensors of one dtype, are equal; numpy compares large ones faster."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return left == right
    if left.device.type != "cpu" or left.numel() < _SMALL:
        return torch.equal(left, right)
    return bool(np.array_equal(left.numpy(), right.numpy()))


def _byte_digits(secret: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each byte of an int32 counts times ``secret``, as digits (4 * len, 8), and a constant to add.

    Flipping the top bits of the three low bytes of an int32 makes each byte a signed digit, short by 128; what all are
    short by together is the constant.
    """
    shifted = torch.stack([secret << 8 * byte for byte in range(4)], 1)
    return digits(shifted.flatten()), 128 * (1 + 2**8 + 2**16) * secret.sum()


def _each(fold: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Stack ``fold`` of every image, as a matrix of (channels, pixels)."""
    flat = images.flatten(2)
    if len(flat) == 1:
        return fold(flat[0]).unsqueeze(0)
    return torch.stack([fold(image) for image in flat])
