"""Turning float weights into the integer codes that memory really holds."""

from holdfast.quantization.placing import place, placed
from holdfast.quantization.quantize import codes, quantize

__all__ = ["codes", "place", "placed", "quantize"]
