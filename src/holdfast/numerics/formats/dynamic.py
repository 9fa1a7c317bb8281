"""int8-dynamic: unsigned bytes with a scale and a zero point, ranges taken from the tensor at hand.

ONNX's DynamicQuantizeLinear, which is also what torch's dynamically quantised layers do to activations: the range
includes zero, so that the zero point is a code and zero exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.formats.ranges import positive
from holdfast.numerics.granularity import Granularity

_TOP = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicInt8:
    """``value = (code - zero_point) * scale``, per tensor (or channel); codes are uint8."""

    granularity: Literal["tensor", "channel"] = "tensor"
    span_zero: bool = True  # False: the range is [min, max] and the zero point any integer, as in HSPI's code

    def __post_init__(self) -> None:
        if self.granularity not in ("tensor", "channel"):
            raise InvalidConfig(f"no dynamic range per {self.granularity!r}", hint="tensor or channel")

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        return f"int8-dynamic:granularity={self.granularity},span_zero={str(self.span_zero).lower()}"

    @property
    def bits(self) -> int:
        """Stored bits per element."""
        return 8

    @property
    def sharing(self) -> Granularity:
        """Which elements share a ``scale`` and a ``zero_point``."""
        return Granularity(self.granularity)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of ``x``; with ``qparams`` (``scale``, ``zero_point``), in that frozen range.

        Raises:
            UnsupportedFormat: NaN, an infinity or a value beyond float32.
        """
        require_finite(x, "int8-dynamic")
        wide = x.detach().double()
        qparams = self._range(wide) if qparams is None else dict(qparams)
        steps, zero = wide / qparams["scale"].double(), qparams["zero_point"].double()
        steps = steps.round() + zero if self.span_zero else (steps + zero).round()
        return Encoded(steps.clamp(0, _TOP).to(torch.uint8), qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers."""
        return _decoded(encoded.codes, encoded.qparams["scale"], encoded.qparams["zero_point"])

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        shape = encoded.codes.shape
        scale, zero = (self.sharing.at(encoded.qparams[key], index, shape) for key in ("scale", "zero_point"))
        return _decoded(encoded.codes.view(-1)[index], scale, zero)

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit."""
        return ("magnitude",) * 8

    def _range(self, wide: Tensor) -> dict[str, Tensor]:
        least, most = self.sharing.extremes(wide)
        if self.span_zero:
            least, most = least.clamp(max=0), most.clamp(min=0)
        else:
            most = torch.where(most == least, least + 1, most)
        # a step below the spacing of float32 at the ends would merge neighbouring codes
        spacing = torch.maximum(most.abs(), least.abs()) * 2.0**-22
        scale = positive(torch.maximum((most - least) / _TOP, spacing))
        zero = (-least / scale.double()).round()
        return {"scale": scale, "zero_point": zero.to(torch.uint8 if self.span_zero else torch.int32)}


def _decoded(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((codes.double() - zero.double()) * scale.double()).float()
