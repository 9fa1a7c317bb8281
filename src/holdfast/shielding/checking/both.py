"""Both sides at once, in a field: ``r^T Y s == (r^T W) (X s)`` is one number for each image of a convolution.

Over the field of :mod:`~holdfast.shielding.checking.field` let ``r`` be uniform over its ``out``-vectors, and let the
position at row ``i = g R + k`` and column ``j`` weigh ``s_ij = u_g v_k b_j``, with ``u``, ``v`` and ``b`` uniform over
theirs. All four are drawn independently. ``r^T D s`` is linear in each of them, so for ``D = Y' - Y`` not zero it
vanishes with probability at most 4/p: fold by one after the other, and each finds something that is not zero and turns
it into zero with probability 1/p at most. A lie passes with probability at most 4/p < 2^-37.

What is left of the work is five int8 digits for every byte of an answer, and five for every tap of every input pixel,
or, since rows and columns weigh apart, for every tap of a kernel's *row*. Nothing is unrolled, and the weights are not
read.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from holdfast.seeds import Entropy
from holdfast.shielding.checking.field import DIGITS, MODULUS, Weighing, digits, from_digits, multiply, uniform
from holdfast.shielding.checking.reaching import axis_reach
from holdfast.shielding.kernels import MOST_INNER, kernel, true_matmul
from holdfast.shielding.product import Geometry

_LOW_HALVES = np.int32(0x00808080)  # 128 in the three low bytes of an int32
_PRODUCT = 2**14  # of two int8, at most
_BLOCK = 2**20  # bytes that stay in a processor's second cache
_GAP, _ALIASED = 4, 512  # words between columns of so many bytes, lest all fall into one set of the first cache
_COLUMN = 2048  # bytes of an answer that one secret vector folds: int8 products like many short columns


class BothFold:
    """Folds channels and positions; needs ``r^T W``, not the weights.

    Args:
        codes: int8 weights, shape ``geometry.weight_shape``.
        shape: of one image.
        entropy: source of the secrets.
    """

    def __init__(self, codes: Tensor, geometry: Geometry, shape: tuple[int, ...], entropy: Entropy) -> None:
        _, high, wide = geometry.output_shape(shape)
        at_once = _rows_at_once(high, 4 * wide)
        u, v = uniform(entropy, high // at_once), uniform(entropy, at_once)
        r, across = uniform(entropy, geometry.out_channels), uniform(entropy, wide)
        down = _outer(u, v)
        folded = from_digits(true_matmul(digits(r), codes.reshape(len(r), -1)))
        self._inputs = _Inputs(folded, down, across, geometry, shape)
        self._outputs = _Outputs(_outer(r, u), _outer(v, across))

    @staticmethod
    def fits(geometry: Geometry, shape: tuple[int, ...]) -> bool:
        """Say whether every int32 sum stays exact: a convolution of images that are not too large."""
        if geometry.kind != "conv2d":
            return False
        _, _, wide = geometry.output_shape(shape)
        return max(math.prod(shape[1:]), 4 * wide) <= MOST_INNER

    @staticmethod
    def cost(geometry: Geometry, shape: tuple[int, ...]) -> float:
        """Return a rough number of nanoseconds for one sample."""
        positions = math.prod(geometry.output_shape(shape)[1:])
        inputs = min(_flat_cost(geometry, shape), _row_cost(geometry, shape))
        return inputs + 0.4 * geometry.out_channels * positions + 4e4

    def left(self, x: Tensor) -> list[int]:
        """Return ``(r^T W) (X s)``, one residue for each image."""
        if x.numel() <= _BLOCK:
            return self._inputs.fold(x)
        return [item for part in x.split(max(1, _BLOCK // x[0].numel())) for item in self._inputs.fold(part)]

    def right(self, y: Tensor) -> list[int]:
        """Return ``r^T Y s``, one residue for each image."""
        return self._outputs.fold(y)


class _Inputs:
    """``w X s``: pixels as columns and all taps at once, or each row of an image and the taps of a kernel's row."""

    def __init__(self, w: Tensor, down: Tensor, across: Tensor, geometry: Geometry, shape: tuple[int, ...]) -> None:
        self._matmul = kernel().matmul
        w = w.view(geometry.in_channels, *geometry.kernel)
        lower = _taken(down, axis_reach(geometry, 0, shape[1], len(down)))  # (taps, rows)
        along = _taken(across, axis_reach(geometry, 1, shape[2], len(across)))  # (taps, columns)
        if _row_cost(geometry, shape) < _flat_cost(geometry, shape):
            spread, self._lines = along, geometry.in_channels * shape[1]
            parts = [multiply(w[:, tap, :, None], row) for tap, row in enumerate(lower)]  # (channels, taps, rows)
            weights = (torch.stack(parts).sum(0) % MODULUS).movedim(1, 0)
        else:
            spread = multiply(lower[:, None, :, None], along[None, :, None, :]).flatten(0, 1).flatten(1)
            self._lines, weights = geometry.in_channels, w.flatten(1).t()
        self._digits = digits(spread).flatten(0, 1)
        self._weighing = Weighing(weights, _PRODUCT * self._digits.shape[1])

    def fold(self, x: Tensor) -> list[int]:
        """Return one residue for each image."""
        parts = self._matmul(self._digits, x.reshape(-1, self._digits.shape[1]).t()).numpy()
        return self._weighing.total(parts.reshape(DIGITS, -1, len(x), self._lines).transpose(2, 0, 1, 3))


class _Outputs:
    """``r^T Y s``, by the bytes of ``Y``, laid out as (images, *outer, *inner).

    Args:
        outer: residues, what the leading positions of an image weigh, flat.
        inner: what the positions after them weigh, flat.

    Flipping the top bits of the three low bytes of an int32 makes each byte a signed digit, short by 128; what all are
    short by together is one constant.
    """

    def __init__(self, outer: Tensor, inner: Tensor) -> None:
        self._matmul = kernel().matmul
        places = torch.tensor([1, 2**8, 2**16, 2**24])
        self._digits = digits(multiply(inner[:, None], places).flatten())
        self._gap = _GAP if self._digits.shape[1] % _ALIASED == 0 else 0
        self._weighing = Weighing(outer, _PRODUCT * self._digits.shape[1])
        self._offset = 128 * (1 + 2**8 + 2**16) * int(inner.sum()) * int(outer.sum()) % MODULUS

    def fold(self, y: Tensor) -> list[int]:
        """Return one residue for each image; what is flipped at a time stays in a processor's second cache."""
        width = self._digits.shape[1]
        words = y.contiguous().numpy().reshape(-1, width // 4)
        block = max(_BLOCK // width, 1)
        scratch = np.empty((min(block, len(words)), width // 4 + self._gap), dtype=np.int32)
        parts = np.empty((DIGITS, len(words)), dtype=np.int32)
        for start in range(0, len(words), block):
            some = words[start : start + block]
            flipped = np.bitwise_xor(some, _LOW_HALVES, out=scratch[: len(some), : width // 4]).view(np.int8)
            parts[:, start : start + block] = self._matmul(self._digits, torch.from_numpy(flipped).t()).numpy()
        return self._weighing.total(parts.reshape(DIGITS, len(y), -1).transpose(1, 0, 2), self._offset)


def _rows_at_once(high: int, width: int) -> int:
    """Return how many rows of ``width`` bytes to fold by one product."""
    return max(rows for rows in range(1, high + 1) if high % rows == 0 and (rows == 1 or rows * width <= _COLUMN))


def _flat_cost(geometry: Geometry, shape: tuple[int, ...]) -> float:
    return 0.034 * math.prod(geometry.kernel) * math.prod(shape)


def _row_cost(geometry: Geometry, shape: tuple[int, ...]) -> float:
    """The product is shorter by the kernel's height, and what it leaves to weigh is longer by the image's."""
    return geometry.kernel[1] * (0.04 * math.prod(shape) + 2.0 * shape[0] * shape[1])


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return multiply(left[:, None], right).flatten()


def _taken(secret: Tensor, places: Tensor) -> Tensor:
    """Return the secret at ``places``, and zero where a place is -1."""
    return torch.cat([secret, secret.new_zeros(1)])[places]
