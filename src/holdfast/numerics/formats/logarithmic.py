"""Signs and powers of two: log8, and bl8 whose blocks share the place of their exponents.

Zhang et al., *Revisiting Block-based Quantisation*, EMNLP 2023 (block logarithm). Unlike that code, exponent field zero
is kept for the number zero, which a pure logarithm does not have; that costs the lowest of 128 exponents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import UnsupportedFormat
from holdfast.numerics.formats.elements import power_of_two
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.granularity import Granularity

_FIELD = 127  # the greatest exponent field
_BIAS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Logarithmic:
    """``value = sign * 2**(field - bias)``: bit 7 of a uint8 code is the sign, the others the field; 0 means zero.

    Logarithms are rounded to the nearest. Without blocks the bias is 63; a block stores its own (``bias``, uint8), such
    that its top exponent is that of the power of two just above its greatest magnitude.
    """

    block: int = 0  # elements that share a bias; 0: none do
    along: Literal["row", "last"] = "row"  # a row is what is under an index of dimension 0, or the last axis
    zero: bool = True  # False: field 0 is one exponent more, and zero becomes the least magnitude, as in HSPI's code

    def __post_init__(self) -> None:
        Granularity("group", self.block or 1, self.along)

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        return f"logarithmic:block={self.block},along={self.along},zero={str(self.zero).lower()}"

    @property
    def bits(self) -> int:
        """Stored bits per element, without the shared bias."""
        return 8

    @property
    def has_zero(self) -> bool:
        """Whether zero is a number of the format."""
        return self.zero

    @property
    def sharing(self) -> Granularity:
        """Which elements share a ``bias``."""
        return Granularity("group", self.block or 1, self.along)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of ``x``; with ``qparams`` (``bias`` of each block), under those.

        Raises:
            UnsupportedFormat: NaN, an infinity or a value beyond float32; without blocks, one beyond 2**64.5.
        """
        require_finite(x, self.name)
        wide = x.detach().double()
        qparams = (self._biases(wide) if self.block else {}) if qparams is None else dict(qparams)
        bias = self.sharing.spread(qparams["bias"], x.shape).long() if self.block else _BIAS
        field = _rounded_log2(wide.abs()) + bias
        if self.zero and not self.block and bool((field > _FIELD).any()):
            raise UnsupportedFormat(f"{self.name} cannot hold a value beyond 2**64", hint="scale the tensor first")
        sign = torch.signbit(wide) if self.zero else (wide < 0)
        return Encoded((field.clamp(0, _FIELD) | (sign.long() << 7)).to(torch.uint8), qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers."""
        bias = self.sharing.spread(encoded.qparams["bias"], encoded.codes.shape) if self.block else None
        return self._decoded(encoded.codes, bias)

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        bias = self.sharing.at(encoded.qparams["bias"], index, encoded.codes.shape) if self.block else None
        return self._decoded(encoded.codes.view(-1)[index], bias)

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return ("exponent",) * 7 + ("sign",)

    def _decoded(self, codes: Tensor, bias: Tensor | None) -> Tensor:
        field = codes.long() & _FIELD
        magnitude = power_of_two(field - (_BIAS if bias is None else bias.long()))
        if self.zero:
            magnitude = torch.where(field == 0, 0.0, magnitude)
        return torch.where(codes > _FIELD, -magnitude, magnitude).float()

    def _biases(self, wide: Tensor) -> dict[str, Tensor]:
        least, most = self.sharing.extremes(wide)
        greatest = torch.maximum(most.abs(), least.abs())
        if not self.zero:
            greatest = filled(greatest)
        mantissa, exponent = torch.frexp(greatest)
        above = torch.where(mantissa == 0.5, exponent - 1, exponent)
        bias = torch.where(greatest > 0, _FIELD - above, 255)
        return {"bias": bias.clamp(0, 255).to(torch.uint8)}


def filled(greatest: Tensor) -> Tensor:
    """Return the greatest magnitudes of blocks; all-zero blocks take the least of the others, or one."""
    others = greatest[greatest > 0]
    return torch.where(greatest > 0, greatest, others.min() if others.numel() else greatest.new_tensor(1.0))


def _rounded_log2(x: Tensor) -> Tensor:
    """Return log2 of float64 ``x`` >= 0 rounded to the nearest integer, int64; no tie is possible; for zero, low."""
    mantissa, exponent = torch.frexp(x)
    nearest = torch.where(mantissa < math.sqrt(0.5), exponent - 1, exponent).long()
    return torch.where(x == 0, -2000, nearest)
