"""IEEE 754 and OCP floating-point formats: a code is the bit pattern, read as an integer of the same width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats.protocol import Encoded


@dataclass(frozen=True, slots=True)
class FloatingPoint:
    """One sign bit, ``exponent`` bits, and the rest mantissa; conversion rounds to nearest even, as torch casts do."""

    name: str
    dtype: torch.dtype
    exponent: int  # bits
    infinities: bool = True

    @property
    def bits(self) -> int:
        """Stored bits per element."""
        return bits.bit_width(self.dtype)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the bit patterns of ``x`` cast to this format.

        NaN and the infinities are kept where the format has them.

        Raises:
            UnsupportedFormat: a value beyond the format's range, such as an infinity for fp8-e4m3fn.
        """
        if x.dtype != self.dtype and self._overflows(x.detach().double()):
            raise UnsupportedFormat(f"{self.name} cannot hold a value beyond its range", hint="scale the tensor first")
        return Encoded(bits.int_view(x.detach().to(self.dtype).contiguous()))

    def _overflows(self, wide: Tensor) -> bool:
        # not left to the cast: releases of torch disagree on whether fp8 saturates or becomes NaN
        beyond = wide.abs() > torch.finfo(self.dtype).max
        return bool((beyond & torch.isfinite(wide) if self.infinities else beyond).any())

    def decode(self, encoded: Encoded) -> Tensor:
        """Return the numbers in this format's own dtype."""
        return encoded.codes.view(self.dtype)

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        return encoded.codes.view(-1)[index].view(self.dtype)

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        mantissa = self.bits - 1 - self.exponent
        return ("mantissa",) * mantissa + ("exponent",) * self.exponent + ("sign",)


FLOATING_POINT = (
    FloatingPoint("fp64", torch.float64, 11),
    FloatingPoint("fp32", torch.float32, 8),
    FloatingPoint("fp16", torch.float16, 5),
    FloatingPoint("bf16", torch.bfloat16, 8),
    FloatingPoint("fp8-e4m3fn", torch.float8_e4m3fn, 4, infinities=False),
    FloatingPoint("fp8-e5m2", torch.float8_e5m2, 5),
)
_BY_DTYPE = {item.dtype: item.name for item in FLOATING_POINT}


def format_of_dtype(dtype: torch.dtype) -> str:
    """Return the format name of a torch float dtype.

    Raises:
        UnsupportedFormat: no such format.
    """
    if dtype not in _BY_DTYPE:
        raise UnsupportedFormat(
            f"{dtype} is no number format known here", hint=f"known: {', '.join(_BY_DTYPE.values())}"
        )
    return _BY_DTYPE[dtype]
