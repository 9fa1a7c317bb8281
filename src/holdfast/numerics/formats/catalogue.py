"""Number formats by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from holdfast._registry import Registry
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.floating_point import FLOATING_POINT, FloatingPoint
from holdfast.numerics.formats.protocol import Format

formats: Registry[Format] = Registry("format", "holdfast.formats")


def _constant(item: FloatingPoint) -> Callable[[], FloatingPoint]:
    return lambda: item


for _item in FLOATING_POINT:
    formats.register(_item.name)(_constant(_item))

formats.register("fixed-point")(FixedPoint)
for _bits in (4, 8):
    formats.register(f"int{_bits}")(partial(FixedPoint, bits=_bits))

# RQuant (Stutz et al.): per tensor, asymmetric, unsigned, rounded
for _bits in range(2, 9):
    formats.register(f"rquant{_bits}")(
        partial(FixedPoint, bits=_bits, symmetric=False, signed=False, granularity="tensor")
    )
