"""Codes as numbers and back, for laws that compute with what a code means.

A code of a floating-point format is its bit pattern, of an integer format the integer itself: two's complement where
the format is signed, else unsigned. Scales play no part: a relative error of an integer is one of what it stands for,
up to the zero point. Other formats (logarithms, codebooks, shared exponents) have no such arithmetic and are refused.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from holdfast.errors import UnknownName, UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats import formats
from holdfast.numerics.formats.affine import Affine
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.floating_point import FLOATING_POINT, FloatingPoint

_FLOATS = {item.name: item for item in FLOATING_POINT}


@lru_cache(maxsize=256)
def number_kind(format: str) -> FloatingPoint | bool:
    """Return the floating-point format called ``format``, or whether an integer format is signed.

    Raises:
        UnsupportedFormat: the format is neither.
    """
    if format in _FLOATS:
        return _FLOATS[format]
    try:
        built = formats.build(format)
    except UnknownName:
        if format.startswith(("int", "uint")):  # the integer types of zero points and of offloaded layers
            return format.startswith("int")
        raise
    if not isinstance(built, FixedPoint | Affine):
        raise UnsupportedFormat(f"codes of {format} are no numbers to compute with", hint="flip, set or clear bits")
    return built.signed


def numbers(codes: Tensor, format: str, width: int) -> Tensor:
    """Return what int64 ``codes`` (n,) of ``width`` bits stand for, float64 (n,).

    Raises:
        UnsupportedFormat: no float or integer format, or integers of more than 32 bits.
    """
    kind = number_kind(format)
    if isinstance(kind, FloatingPoint):
        return bits.narrow(codes, _integer(width)).view(kind.dtype).double()
    if width > 32:
        raise UnsupportedFormat(f"{format} has integers beyond what float64 holds exactly")
    low = codes & ((1 << width) - 1)
    return (torch.where(low >> (width - 1) == 1, low - (1 << width), low) if kind else low).double()


def codes_of(values: Tensor, format: str, width: int) -> Tensor:
    """Return the codes of float64 ``values`` (n,), rounded to nearest even: int64 (n,), bits above ``width`` clear.

    Beyond its range a float becomes infinite, or NaN where the format has no infinity; an integer keeps the end of its
    range. NaN is one code whatever processor made it, positive and quiet; it is no integer and becomes zero there.
    """
    kind = number_kind(format)
    if isinstance(kind, FloatingPoint):
        cast = bits.int_view(_rounded(values, kind)).to(torch.int64)
        cast = torch.where(torch.isnan(values), _quiet_nan(kind), cast)
    else:
        low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if kind else (0, 2**width - 1)
        cast = values.nan_to_num(0.0, math.inf, -math.inf).round().clamp(low, high).to(torch.int64)
    return cast if width == 64 else cast & ((1 << width) - 1)


def _quiet_nan(kind: FloatingPoint) -> int:
    mantissa = kind.bits - 1 - kind.exponent
    if not kind.infinities:  # e4m3fn: the one with all bits set
        return (1 << (kind.bits - 1)) - 1
    return ((1 << kind.exponent) - 1) << mantissa | 1 << (mantissa - 1)


def _rounded(values: Tensor, kind: FloatingPoint) -> Tensor:
    """Cast; what eight-bit floats do beyond their range is settled here, as releases of torch disagree on it."""
    if kind.bits != 8:
        return values.to(kind.dtype)
    most = torch.finfo(kind.dtype).max
    step = most - float(torch.tensor(most, dtype=kind.dtype).view(torch.uint8).sub(1).view(kind.dtype).double())
    last = most + step / 2  # halfway to what would come next: to even is back for e4m3fn, up for e5m2
    over = values.abs() > last if not kind.infinities else values.abs() >= last
    cast = values.clamp(-most, most).to(kind.dtype)
    beyond = torch.full_like(values, math.inf if kind.infinities else math.nan).copysign(values).to(kind.dtype)
    mixed = torch.where(over, bits.int_view(beyond), bits.int_view(cast))
    return mixed.view(kind.dtype)


def _integer(width: int) -> torch.dtype:
    return {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
