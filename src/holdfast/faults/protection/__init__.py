"""Protections of memory, applied to the errors that a fault draws."""

from holdfast.faults.protection.protected import Protected
from holdfast.faults.protection.protocol import Protection, Tally, protections
from holdfast.faults.protection.report import ProtectionReport, report
from holdfast.faults.protection.word_codes import OnDieSec, ParityZero, Secded

__all__ = [
    "OnDieSec",
    "ParityZero",
    "Protected",
    "Protection",
    "ProtectionReport",
    "Secded",
    "Tally",
    "protections",
    "report",
]
