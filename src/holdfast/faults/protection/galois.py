"""Arithmetic in GF(2^8), the field of the usual byte-wise Reed-Solomon codes, by tables.

The polynomial is x^8 + x^4 + x^3 + x^2 + 1 (0x11d), of which x is a primitive element.
"""

from __future__ import annotations

import functools

import numpy as np

ORDER = 255  # of the multiplicative group
_POLYNOMIAL = 0x11D


@functools.cache
def powers() -> np.ndarray:
    """Return x**k for k = 0 .. 254, int64."""
    values = [1]
    for _ in range(ORDER - 1):
        doubled = values[-1] << 1
        values.append(doubled ^ _POLYNOMIAL if doubled > 255 else doubled)
    return np.array(values, np.int64)


@functools.cache
def logarithms() -> np.ndarray:
    """Return k with x**k = value, int64, shape (256,); that of zero is -1."""
    table = np.full(256, -1, np.int64)
    table[powers()] = np.arange(ORDER)
    return table


def times(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return products of field elements, int64, broadcast."""
    log = logarithms()
    product = powers()[(log[one] + log[other]) % ORDER]
    return np.where((np.asarray(one) == 0) | (np.asarray(other) == 0), 0, product)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return X with ``matrix @ X = right`` over the field, by elimination.

    Args:
        matrix: (n, n), regular.
        right: (n, m).
    """
    work = np.concatenate([matrix, right], axis=1)
    for column in range(len(matrix)):
        pivot = column + int(np.flatnonzero(work[column:, column])[0])
        work[[column, pivot]] = work[[pivot, column]]
        inverse = powers()[-logarithms()[work[column, column]] % ORDER]
        work[column] = times(work[column], inverse)
        for row in range(len(matrix)):
            if row != column:
                work[row] ^= times(work[column], work[row, column])
    return work[:, len(matrix) :]
