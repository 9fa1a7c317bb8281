"""Number formats by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from holdfast._registry import Registry
from holdfast.numerics.formats.affine import Affine
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.floating_point import FLOATING_POINT, FloatingPoint
from holdfast.numerics.formats.protocol import Format
from holdfast.numerics.formats.superblock import Superblock

formats: Registry[Format] = Registry("format", "holdfast.formats")


def _constant(item: FloatingPoint) -> Callable[[], FloatingPoint]:
    return lambda: item


for _item in FLOATING_POINT:
    formats.register(_item.name)(_constant(_item))

formats.register("affine")(Affine)
formats.register("superblock")(Superblock)
formats.register("fixed-point")(FixedPoint)
for _bits in (4, 8, 16, 32):
    formats.register(f"int{_bits}")(partial(FixedPoint, bits=_bits))
for _bits in range(2, 9):
    _whole = partial(FixedPoint, bits=_bits, symmetric=False, signed=False, granularity="tensor")
    formats.register(f"uint{_bits}")(_whole)

# Stutz et al., table 1: the steps from the usual quantiser to theirs, exactly as released; clip= is their w_max
_released = partial(FixedPoint, granularity="tensor", epsilon=0.001, saturate=True)
for _bits in range(2, 9):
    formats.register(f"global{_bits}")(
        partial(_released, bits=_bits, signed=False, rounding="truncate", range="fixed", clip=1.0)
    )
    formats.register(f"rquant{_bits}")(partial(_released, bits=_bits, symmetric=False, signed=False, centred=True))
for _bits in (8, 16, 32):
    formats.register(f"normal{_bits}")(partial(_released, bits=_bits, rounding="truncate"))
