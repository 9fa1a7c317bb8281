"""The laws by which bits go wrong."""

from holdfast.faults.adversarial.fixed_flips import FixedFlips
from holdfast.faults.asymmetric import AsymmetricBitErrors
from holdfast.faults.bit_errors import BitErrors
from holdfast.faults.bit_flip import BitFlip
from holdfast.faults.bursts import Bursts
from holdfast.faults.corruption import Corruption
from holdfast.faults.dram_voltage import DramRetention, DramVoltage
from holdfast.faults.error_map import ErrorMapErrors
from holdfast.faults.exact import ExactErrors
from holdfast.faults.map_file import ErrorMap, read_error_map, write_error_map
from holdfast.faults.memory_profile import SRAM_14NM, MemoryProfile, SramVoltage
from holdfast.faults.mixture import Mixture, Share
from holdfast.faults.protection import Protected
from holdfast.faults.regions import LineFailures, LineRates, RegionalErrors
from holdfast.faults.streaming import FileInjection, inject_file
from holdfast.faults.stuck_at import StuckAt
from holdfast.faults.timed import Timed
from holdfast.faults.transient import IntermittentErrors, TransientErrors
from holdfast.faults.upsets import MultiBitUpsets

__all__ = [
    "SRAM_14NM",
    "AsymmetricBitErrors",
    "BitErrors",
    "BitFlip",
    "Bursts",
    "Corruption",
    "DramRetention",
    "DramVoltage",
    "ErrorMap",
    "ErrorMapErrors",
    "ExactErrors",
    "FileInjection",
    "FixedFlips",
    "IntermittentErrors",
    "LineFailures",
    "LineRates",
    "MemoryProfile",
    "Mixture",
    "MultiBitUpsets",
    "Protected",
    "RegionalErrors",
    "Share",
    "SramVoltage",
    "StuckAt",
    "Timed",
    "TransientErrors",
    "inject_file",
    "read_error_map",
    "write_error_map",
]
