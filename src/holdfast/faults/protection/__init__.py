"""Protections of memory, applied to the errors that a fault draws: codes, signatures, votes, and bits that are safe."""

from holdfast.faults.protection.chipkill import Chipkill
from holdfast.faults.protection.fields import ProtectBits
from holdfast.faults.protection.in_place import InPlaceEcc, throttle_, throttled
from holdfast.faults.protection.protected import Protected
from holdfast.faults.protection.protocol import Protection, Tally, protections
from holdfast.faults.protection.radar import Radar
from holdfast.faults.protection.report import ProtectionReport, report
from holdfast.faults.protection.voting import Voting
from holdfast.faults.protection.word_codes import OnDieSec, ParityZero, Secded

__all__ = [
    "Chipkill",
    "InPlaceEcc",
    "OnDieSec",
    "ParityZero",
    "ProtectBits",
    "Protected",
    "Protection",
    "ProtectionReport",
    "Radar",
    "Secded",
    "Tally",
    "Voting",
    "protections",
    "report",
    "throttle_",
    "throttled",
]
