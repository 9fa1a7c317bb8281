"""The laws by which bits go wrong."""

from holdfast.faults.bit_errors import BitErrors
from holdfast.faults.bit_flip import BitFlip
from holdfast.faults.streaming import FileInjection, inject_file

__all__ = ["BitErrors", "BitFlip", "FileInjection", "inject_file"]
