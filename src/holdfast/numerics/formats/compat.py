"""The number formats of HSPI's published code, defects included, to compare with what it measured.

Zhang et al., ICML 2025. Codes are real here where that code rounds floats, so magnitudes up to 1e-8, which it lets
through unchanged, become zero. Use the formats without ``compat-`` for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from holdfast.numerics.formats.dynamic import DynamicInt8
from holdfast.numerics.formats.elements import SmallFloat, floor_log2, power_of_two
from holdfast.numerics.formats.logarithmic import Logarithmic, filled
from holdfast.numerics.formats.microscaling import Microscaling
from holdfast.numerics.formats.minifloat import Minifloat
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.granularity import Granularity

_ELEMENT = SmallFloat(2, 5, 0, carry=False)
_plain = partial(Minifloat, specials="none", overflow="saturate", carry=False)


def fp8_e4m3() -> Minifloat:
    """Return ``compat-fp8-e4m3``.

    Defects: it has no NaN and saturates at 480 where OCP's E4M3 ends at 448, and rounding up never carries into the
    exponent (1.99 becomes 1.875, not 2).
    """
    return _plain(exponent=4, mantissa=3)


def fp8_e3m4() -> Minifloat:
    """Return ``compat-fp8-e3m4``, for activations.

    Defects: no special values, so that it saturates at 31; no carry; and the tag of this name quantises *weights* with
    ``compat-fp8-e4m3``, a slip of its configuration.
    """
    return _plain(exponent=3, mantissa=4)


def mxint8() -> Microscaling:
    """Return ``compat-mxint8``: sign and magnitude instead of two's complement.

    Defect: blocks run along the last axis, so that a block of a 3x3 convolution is three weights, not thirty-two.
    """
    return Microscaling(element="sign-magnitude", along="last")


def log8() -> Logarithmic:
    """Return ``compat-log8``. Defect: it has no zero, which becomes 2**-63; values beyond 2**64 saturate."""
    return Logarithmic(zero=False)


def bl8() -> Logarithmic:
    """Return ``compat-bl8``. Defect: it has no zero, which becomes the least magnitude of its block."""
    return Logarithmic(block=16, along="last", zero=False)


def int8_dynamic() -> DynamicInt8:
    """Return ``compat-int8-dynamic``. Defect: the range need not include zero, which then is no code."""
    return DynamicInt8(span_zero=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatBlockMinifloat:
    """``compat-bm8``: ``value = element * 2**-bias``, one ``bias`` (uint8) per block, two exponent bits, five mantissa.

    Defects: the bias is floor(log2 of the greatest magnitude), clamped to 0..255, where 3 minus that is meant, so a
    block with a greatest magnitude of 8 saturates below 2 and one of 0.01 becomes zero; and rounding up never carries.
    """

    block: int = 16  # elements of a group, side of a tile
    shape: Literal["group", "tile"] = "tile"  # tile for weights, group for activations
    along: Literal["row", "last"] = "last"

    def __post_init__(self) -> None:
        Granularity(self.shape, self.block, self.along)

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        return f"compat-bm8:block={self.block},shape={self.shape},along={self.along}"

    @property
    def bits(self) -> int:
        """Stored bits per element, without the shared bias."""
        return 8

    @property
    def sharing(self) -> Granularity:
        """Which elements share a ``bias``."""
        return Granularity(self.shape, self.block, self.along)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of ``x``; with ``qparams`` (``bias`` of each block), under those.

        Raises:
            UnsupportedFormat: NaN, an infinity or a value beyond float32.
        """
        require_finite(x, "compat-bm8")
        wide = x.detach().double()
        if qparams is None:
            least, most = self.sharing.extremes(wide)
            greatest = filled(torch.maximum(most.abs(), least.abs()))
            qparams = {"bias": floor_log2(greatest).clamp(0, 255).to(torch.uint8)}
        bias = self.sharing.spread(qparams["bias"], x.shape).long()
        return Encoded(_ELEMENT.encode(wide * power_of_two(bias)), dict(qparams))

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers."""
        bias = self.sharing.spread(encoded.qparams["bias"], encoded.codes.shape)
        return (_ELEMENT.decode(encoded.codes) * power_of_two(-bias.long())).float()

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        bias = self.sharing.at(encoded.qparams["bias"], index, encoded.codes.shape)
        return (_ELEMENT.decode(encoded.codes.view(-1)[index]) * power_of_two(-bias.long())).float()

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return _ELEMENT.fields()
