"""Floating point of two to eight bits with any split of exponent and mantissa; torch needs no dtype for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats.elements import SmallFloat
from holdfast.numerics.formats.protocol import Encoded

_small_float = functools.cache(SmallFloat)  # with its table of values


@dataclass(frozen=True, slots=True, kw_only=True)
class Minifloat:
    """A code is the bit pattern, in uint8; conversion rounds to nearest even, and values decode to float32.

    The default is the E3M4 of StableHLO and ``ml_dtypes``: bias 3, infinities and NaN as IEEE 754 has them, greatest
    number 15.5. OCP defines no E3M4.
    """

    exponent: int = 3  # bits
    mantissa: int = 4  # bits
    bias: int | None = None  # None: 2**(exponent - 1) - 1
    specials: Literal["ieee", "nan", "none"] = "ieee"  # patterns that are no finite numbers
    overflow: Literal["refuse", "saturate"] = "refuse"  # what becomes of a value beyond the greatest
    carry: bool = True  # False: rounding up never reaches the next exponent, a defect kept for comparison

    def __post_init__(self) -> None:
        for key, known in (("specials", ("ieee", "nan", "none")), ("overflow", ("refuse", "saturate"))):
            if getattr(self, key) not in known:
                raise InvalidConfig(f"{key} is {getattr(self, key)!r}", hint=f"choose one of {', '.join(known)}")
        if not -64 <= self._bias <= 64:
            raise InvalidConfig(f"a bias of {self.bias} leaves float32")
        self.element  # noqa: B018  # refuses widths that make no number

    @property
    def _bias(self) -> int:
        return 2 ** max(self.exponent - 1, 0) - 1 if self.bias is None else self.bias

    @property
    def element(self) -> SmallFloat:
        """The number type of the codes."""
        return _small_float(self.exponent, self.mantissa, self._bias, self.specials, self.carry)

    @property
    def bits(self) -> int:
        """Stored bits per element."""
        return 1 + self.exponent + self.mantissa

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        return (
            f"minifloat:exponent={self.exponent},mantissa={self.mantissa},bias={self._bias},specials={self.specials},"
            f"overflow={self.overflow},carry={str(self.carry).lower()}"
        )

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the bit patterns of ``x``.

        Raises:
            UnsupportedFormat: NaN where the format has none; a value beyond its range, unless it saturates there.
        """
        wide, element = x.detach().double(), self.element
        infinite, missing = torch.isinf(wide), torch.isnan(wide)
        beyond = wide.abs() > element.greatest
        if self.overflow == "refuse" and bool((beyond if element.infinity is None else beyond & ~infinite).any()):
            raise UnsupportedFormat(f"{self.name} cannot hold a value beyond {element.greatest:g}",
                                    hint="scale the tensor first")  # fmt: skip
        if missing.any() and element.not_a_number is None:
            raise UnsupportedFormat(f"{self.name} cannot hold NaN", hint="repair the tensor first")
        codes = element.encode(torch.where(missing, 0, wide))
        if element.infinity is not None and self.overflow == "refuse":
            codes = torch.where(infinite, element.infinity + (wide < 0) * 2 ** (self.bits - 1), codes).to(torch.uint8)
        if element.not_a_number is not None:
            codes = torch.where(missing, element.not_a_number, codes).to(torch.uint8)
        return Encoded(codes)

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers."""
        return self.element.decode(encoded.codes).float()

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        return self.element.decode(encoded.codes.view(-1)[index]).float()

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return self.element.fields()
