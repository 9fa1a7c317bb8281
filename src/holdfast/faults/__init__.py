"""The laws by which bits go wrong."""

from holdfast.faults.bit_errors import BitErrors
from holdfast.faults.bit_flip import BitFlip

__all__ = ["BitErrors", "BitFlip"]
