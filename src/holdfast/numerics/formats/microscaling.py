"""Blocks of small numbers under one shared power of two: the OCP MX formats, and block minifloat.

OCP Microscaling Formats (MX) Specification v1.0, section 5 (formats) and 6.3 (conversion); block minifloat is Fox et
al., ICLR 2021, whose shared exponent bias is such a power of two as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import UnsupportedFormat
from holdfast.numerics.formats.elements import ELEMENTS, Element, floor_log2, power_of_two
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.granularity import Granularity

ElementName = Literal["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "e2m5", "int8", "sign-magnitude"]
_BIAS, _NAN = 127, 255  # of E8M0, OCP's scale: an exponent of eight bits and nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Microscaling:
    """``value = element * 2**(scale - 127)``; ``scale`` (E8M0, uint8) is shared by a block, and 255 makes it NaN.

    The scale of a block is the greatest power of two up to its greatest magnitude, over the greatest one an element
    holds; elements beyond their own greatest number saturate, as OCP's conversion does.
    """

    element: ElementName = "e4m3"
    block: int = 32  # elements, or side of a tile
    shape: Literal["group", "tile"] = "group"  # neighbours in a row, or a square of a matrix
    along: Literal["row", "last"] = "row"  # a row is what is under an index of dimension 0, or the last axis

    def __post_init__(self) -> None:
        if self.element not in ELEMENTS:
            raise UnsupportedFormat(f"no element {self.element!r}", hint=f"known: {', '.join(ELEMENTS)}")
        Granularity(self.shape, self.block, self.along)

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        return f"microscaling:element={self.element},block={self.block},shape={self.shape},along={self.along}"

    @property
    def bits(self) -> int:
        """Stored bits per element, without the shared scale."""
        return self._element.bits

    @property
    def _element(self) -> Element:
        return ELEMENTS[self.element]

    @property
    def sharing(self) -> Granularity:
        """Which elements share a ``scale``."""
        return Granularity(self.shape, self.block, self.along)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of ``x``; with ``qparams`` (``scale``), under those scales.

        Raises:
            UnsupportedFormat: NaN, an infinity or a value beyond float32; a given scale that is NaN.
        """
        require_finite(x, self.name)
        wide = x.detach().double()
        qparams = {"scale": self._scales(wide)} if qparams is None else dict(qparams)
        if (qparams["scale"] == _NAN).any():
            raise UnsupportedFormat(f"a shared scale of {self.name} is NaN", hint="restore it from a good copy")
        exponents = self.sharing.spread(qparams["scale"], x.shape).long() - _BIAS
        return Encoded(self._element.encode(wide * power_of_two(-exponents)), qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers."""
        return self._decoded(encoded.codes, self.sharing.spread(encoded.qparams["scale"], encoded.codes.shape))

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        scale = self.sharing.at(encoded.qparams["scale"], index, encoded.codes.shape)
        return self._decoded(encoded.codes.view(-1)[index], scale)

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return self._element.fields()

    def _decoded(self, codes: Tensor, scale: Tensor) -> Tensor:
        value = self._element.decode(codes) * power_of_two(scale.long() - _BIAS)
        return torch.where(scale == _NAN, torch.nan, value).float()

    def _scales(self, wide: Tensor) -> Tensor:
        least, most = self.sharing.extremes(wide)
        exponent = floor_log2(torch.maximum(most.abs(), least.abs())) - self._element.emax
        return (exponent.clamp(-_BIAS, _BIAS) + _BIAS).to(torch.uint8)
