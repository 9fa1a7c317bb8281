"""Checking few rows of a linear layer: ``r^T y == (r^T W) x`` over Z/2^64, whose arithmetic is that of wrapping int64.

One row costs two products of vectors, for which no matrix unit is worth starting.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from holdfast.shielding.checking.limbs import folded


class FewRowsFold:
    """``r^T W x`` and ``r^T y`` modulo 2**64 for each row.

    Args:
        r: int64 residues modulo 2**64, shape (out,).
        codes: int8 weights, shape (out, in).
    """

    def __init__(self, r: Tensor, codes: Tensor) -> None:
        self._r, self._folded = r.numpy(), folded(r, codes).numpy()

    def left(self, x: Tensor) -> list[int]:
        """Return ``r^T W x`` of every row of int8 ``x``."""
        return _dots(x, self._folded)

    def right(self, y: Tensor) -> list[int]:
        """Return ``r^T y`` of every row of int32 ``y``."""
        return _dots(y, self._r)


def _dots(rows: Tensor, secret: np.ndarray) -> list[int]:
    found: list[int] = np.dot(rows.numpy().astype(np.int64).reshape(-1, len(secret)), secret).tolist()
    return found
