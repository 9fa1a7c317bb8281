"""Number formats by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from holdfast._registry import Registry
from holdfast.numerics.formats import compat
from holdfast.numerics.formats.affine import Affine
from holdfast.numerics.formats.dynamic import DynamicInt8
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.floating_point import FLOATING_POINT, FloatingPoint
from holdfast.numerics.formats.logarithmic import Logarithmic
from holdfast.numerics.formats.microscaling import ElementName, Microscaling
from holdfast.numerics.formats.minifloat import Minifloat
from holdfast.numerics.formats.normal_float import NormalFloat
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

# number formats that inference platforms compute in
formats.register("minifloat")(Minifloat)
formats.register("fp8-e3m4")(partial(Minifloat))
formats.register("microscaling")(Microscaling)
_MX: dict[str, ElementName] = {
    "mxfp8-e4m3": "e4m3",
    "mxfp8-e5m2": "e5m2",
    "mxfp6-e3m2": "e3m2",
    "mxfp6-e2m3": "e2m3",
    "mxfp4": "e2m1",
    "mxint8": "int8",
}
for _name, _element in _MX.items():
    formats.register(_name)(partial(Microscaling, element=_element))
formats.register("bm8")(partial(Microscaling, element="e2m5", block=16, shape="tile"))
formats.register("logarithmic")(Logarithmic)
formats.register("log8")(partial(Logarithmic))
formats.register("bl8")(partial(Logarithmic, block=16))
formats.register("int8-dynamic")(DynamicInt8)
formats.register("nf4")(NormalFloat)

formats.register("compat-fp8-e4m3")(compat.fp8_e4m3)
formats.register("compat-fp8-e3m4")(compat.fp8_e3m4)
formats.register("compat-mxint8")(compat.mxint8)
formats.register("compat-bm8")(compat.CompatBlockMinifloat)
formats.register("compat-bl8")(compat.bl8)
formats.register("compat-log8")(compat.log8)
formats.register("compat-int8-dynamic")(compat.int8_dynamic)
