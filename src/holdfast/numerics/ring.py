"""Exact arithmetic modulo 2**32 and 2**64.

Signed integer tensors stand for residues in two's complement: torch's integer products and sums wrap, so a residue's
representation is its unique signed one. The exact integer products of int8 operands are in ``exact_product``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig

FLOAT64_EXACT = 2**53


def wrap32(tensor: Tensor) -> Tensor:
    """Reduce an int64 tensor modulo 2**32 to its signed int32 residue."""
    return tensor.to(torch.int32)


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right`` modulo 2**32 (int32 operands) or 2**64 (int64 operands), wrapping.

    Args:
        left: int32 or int64, shape (..., n, k).
        right: the same dtype, shape (k, m).
    """
    if left.dtype != right.dtype or left.dtype not in (torch.int32, torch.int64):
        raise InvalidConfig(f"a ring product takes two int32 or two int64 tensors, not {left.dtype} and {right.dtype}")
    return left @ right


def exact_product(left: Tensor, right: Tensor, *, left_bound: int, right_bound: int) -> Tensor:
    """Return the true integer product of two integer matrices as int64, through float64.

    Exact because every partial sum stays below 2**53, which is checked from the bounds and not assumed.

    Args:
        left: integer, shape (n, k), entries at most ``left_bound`` in magnitude.
        right: integer, shape (k, m), entries at most ``right_bound`` in magnitude.
    """
    if left.shape[-1] * left_bound * right_bound >= FLOAT64_EXACT:
        raise InvalidConfig(f"an inner dimension of {left.shape[-1]} could leave float64's exact integers")
    return (left.double() @ right.double()).to(torch.int64)
