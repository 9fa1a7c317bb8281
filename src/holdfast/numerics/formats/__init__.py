"""Number formats as real codes: bit patterns of floats, integers with ranges, blocks that share a scale."""

from holdfast.numerics.formats.catalogue import formats
from holdfast.numerics.formats.dynamic import DynamicInt8
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.floating_point import FloatingPoint, format_of_dtype
from holdfast.numerics.formats.logarithmic import Logarithmic
from holdfast.numerics.formats.microscaling import Microscaling
from holdfast.numerics.formats.minifloat import Minifloat
from holdfast.numerics.formats.normal_float import NormalFloat
from holdfast.numerics.formats.protocol import Encoded, Format

__all__ = [
    "DynamicInt8",
    "Encoded",
    "FixedPoint",
    "FloatingPoint",
    "Format",
    "Logarithmic",
    "Microscaling",
    "Minifloat",
    "NormalFloat",
    "format_of_dtype",
    "formats",
]
