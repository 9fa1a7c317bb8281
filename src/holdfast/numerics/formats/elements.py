"""Numbers of at most eight bits that other formats are made of: small floats, and the int8 of the OCP MX formats.

Encoding rounds to nearest even and saturates at the greatest finite value; the format around an element decides what
else may happen. Everything is computed in float64, where scaling by a power of two is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig

_LEAST = -1074
_POWERS = torch.tensor([2.0**k for k in range(_LEAST, 1024)], dtype=torch.float64)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return ``2.0 ** exponent`` exactly, float64; integer exponents beyond float64's own take the nearest of those."""
    return _POWERS.to(exponent.device)[exponent.clamp(_LEAST, 1023).long() - _LEAST]


def floor_log2(x: Tensor) -> Tensor:
    """Return the exponent of the greatest power of two up to float64 ``x`` >= 0, int64; for zero, a very low one."""
    mantissa, exponent = torch.frexp(x)
    return torch.where(mantissa == 0, torch.full_like(exponent, -2000), exponent - 1).long()


class Element(Protocol):
    """A number type: unsigned codes of ``bits`` bits in an integer tensor, or signed ones in int8."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        ...

    @property
    def emax(self) -> int:
        """Exponent of the greatest power of two it holds."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of finite float64 ``x``, rounded to nearest even, saturating."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of ``codes``, float64; bits above the width are ignored."""
        ...

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        ...


@dataclass(frozen=True)
class SmallFloat:
    """Sign, ``exponent`` bits and ``mantissa`` bits, with subnormals; a code is the bit pattern, in uint8.

    ``specials`` says which patterns are no finite numbers: those of the highest exponent (``ieee``: infinities and
    NaN), the one with all bits set (``nan``, as in OCP's E4M3), or ``none``.
    """

    exponent: int
    mantissa: int
    bias: int
    specials: Literal["ieee", "nan", "none"] = "none"
    carry: bool = True  # False: rounding up never reaches the next exponent, a defect kept for comparison

    def __post_init__(self) -> None:
        if not (self.exponent >= 0 and self.mantissa >= 0 and 2 <= self.bits <= 8):
            raise InvalidConfig(
                f"{self.exponent} exponent and {self.mantissa} mantissa bits make no number of 2..8 bits"
            )
        if self.specials == "ieee" and (self.exponent < 2 or self.mantissa < 1):
            raise InvalidConfig("infinities and NaN take two exponent bits and one of mantissa", hint="specials=none")

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 1 + self.exponent + self.mantissa

    @property
    def top(self) -> int:
        """The code of the greatest finite number."""
        last = (1 << (self.bits - 1)) - 1
        return {"none": last, "nan": last - 1, "ieee": last - (1 << self.mantissa)}[self.specials]

    @property
    def greatest(self) -> float:
        """The greatest finite number."""
        return _magnitude(self, self.top)

    @property
    def emax(self) -> int:
        """Exponent of the greatest power of two it holds."""
        return (self.top >> self.mantissa) - self.bias

    @property
    def infinity(self) -> int | None:
        """The code of positive infinity."""
        return self.top + 1 if self.specials == "ieee" else None

    @property
    def not_a_number(self) -> int | None:
        """The code of a positive NaN, the quiet one where there are several."""
        if self.specials == "ieee":
            return self.top + 1 + (1 << (self.mantissa - 1))
        return self.top + 1 if self.specials == "nan" else None

    @cached_property
    def table(self) -> Tensor:
        """The value of every code, float64."""
        half = 2 ** (self.bits - 1)
        values = [_magnitude(self, code) for code in range(self.top + 1)]
        if self.infinity is not None:
            values.append(float("inf"))
        values += [float("nan")] * (half - len(values))
        return torch.tensor([*values, *(-value for value in values)], dtype=torch.float64)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (uint8) of float64 ``x``; an infinity saturates, and NaN is not allowed."""
        least = 1 - self.bias  # the exponent of subnormals and of the lowest normals
        x, sign = x.double(), torch.signbit(x).long() << (self.bits - 1)
        magnitude = x.abs().clamp(max=2 * self.greatest)
        exponent = floor_log2(magnitude).clamp(min=least)
        steps = (magnitude * power_of_two(self.mantissa - exponent)).round().long()
        if not self.carry:
            steps = steps.minimum(torch.where(magnitude < 2.0**least, 0, 2**self.mantissa) + 2**self.mantissa - 1)
        codes = steps + ((exponent - least) << self.mantissa)
        return (codes.clamp(max=self.top) | sign).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of ``codes``, float64."""
        return self.table.to(codes.device)[codes.long() & (2**self.bits - 1)]

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return ("mantissa",) * self.mantissa + ("exponent",) * self.exponent + ("sign",)


def _magnitude(element: SmallFloat, code: int) -> float:
    exponent, fraction = divmod(code, 1 << element.mantissa)
    if exponent:
        fraction += 1 << element.mantissa
    return float(fraction * 2.0 ** (max(exponent, 1) - element.bias - element.mantissa))


@dataclass(frozen=True)
class ScaledInt8:
    """OCP MX's INT8: two's complement with an implied scale of 2**-6; -128 is left to faults, so that signs balance."""

    bits: int = 8
    emax: int = 0

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (int8) of float64 ``x``."""
        return (x.double() * 64).round().clamp(-127, 127).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of int8 ``codes``, float64."""
        return codes.double() / 64

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return ("magnitude",) * 7 + ("sign",)


ELEMENTS: dict[str, Element] = {
    "e4m3": SmallFloat(4, 3, 7, "nan"),
    "e5m2": SmallFloat(5, 2, 15, "ieee"),
    "e3m2": SmallFloat(3, 2, 3),
    "e2m3": SmallFloat(2, 3, 1),
    "e2m1": SmallFloat(2, 1, 1),
    "e2m5": SmallFloat(2, 5, 1),
    "int8": ScaledInt8(),
    "sign-magnitude": SmallFloat(0, 7, 0),
}
