"""Residues modulo 2**64 as int8 digits, so that products with them run on int8 matrix units."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from holdfast.shielding.kernels import true_matmul

DIGITS = 8
_HALVES = 0x0080808080808080  # 128 in each byte but the top one


@cache
def _on(device: str) -> tuple[Tensor, Tensor]:
    """Return the place values 256**k, and the shifts 8*k as a column, on a device."""
    shifts = torch.arange(DIGITS, device=device) * 8
    return torch.ones_like(shifts) << shifts, shifts.view(-1, 1)


def digits(value: Tensor) -> Tensor:
    """Write int64 residues modulo 2**64 as balanced int8 digits, least significant first, shape (*value.shape, 8).

    ``sum(digits[..., k] << 8 * k)`` is ``value`` modulo 2**64: adding half a byte to each low byte carries what its
    signed reading will lack, and the carry out of the last digit is a multiple of 2**64 and vanishes.
    """
    carried = torch.empty(value.shape, dtype=torch.int64, device=value.device)  # packed, whatever value's strides
    return torch.bitwise_xor(value + _HALVES, _HALVES, out=carried).view(torch.int8).view(*value.shape, DIGITS)


def recombine(parts: Tensor) -> Tensor:
    """Return ``sum(parts[..., k] << 8 * k)`` modulo 2**64 as int64, shape ``parts.shape[:-1]``."""
    return parts.long() @ _on(parts.device.type)[0]


def recombine_rows(parts: Tensor) -> Tensor:
    """Return ``sum(parts[..., k, :] << 8 * k)`` modulo 2**64 as int64; the digits are the last dimension but one."""
    return (parts.long() << _on(parts.device.type)[1]).sum(-2)


def folded(r: Tensor, codes: Tensor) -> Tensor:
    """Return ``r^T W`` modulo 2**64, shape (inner,).

    Args:
        r: int64 residues, shape (out,).
        codes: int8 weights, shape (out, ...).
    """
    return recombine_rows(true_matmul(digits(r).t().contiguous(), codes.reshape(len(r), -1)))


def wide_digits(value: Tensor, bits: int, number: int) -> Tensor:
    """Write integers as ``number`` balanced digits of ``bits`` bits in float64, shape (number, *value.shape).

    Least significant first; what lies above ``bits * number`` bits is lost, as it is modulo 2**64 where they are 64.
    """
    found = []
    for _ in range(number):
        low = value & (2**bits - 1)
        digit = torch.where(low >= 2 ** (bits - 1), low - 2**bits, low)
        found.append(digit)
        value = (value - digit) >> bits
    return torch.stack(found).double()
