"""Number formats as real codes: floating point as bit patterns, fixed point as integers."""

from holdfast.numerics.formats.catalogue import formats
from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.numerics.formats.floating_point import FloatingPoint, format_of_dtype
from holdfast.numerics.formats.protocol import Encoded, Format

__all__ = ["Encoded", "FixedPoint", "FloatingPoint", "Format", "format_of_dtype", "formats"]
