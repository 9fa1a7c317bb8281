"""Transforms that make a model withstand faults in what it computes and stores."""

from holdfast.hardening.guards.checksum import ChecksumGuard, Checksums
from holdfast.hardening.guards.duplication import DuplicateGuard, Duplication
from holdfast.hardening.guards.median_of_three import MedianGuard, MedianOfThree
from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard
from holdfast.hardening.guards.range_restriction import RangeRestriction
from holdfast.hardening.guards.weight_codes_guard import WeightCodeGuard, WeightCodes
from holdfast.hardening.harden import Hardening, Method, harden, methods
from holdfast.hardening.profile import Bounds, profile

__all__ = [
    "Bounds",
    "ChecksumGuard",
    "Checksums",
    "DuplicateGuard",
    "Duplication",
    "Hardening",
    "MedianGuard",
    "MedianOfThree",
    "Method",
    "RangeGuard",
    "RangeRestriction",
    "RecomputingRangeGuard",
    "WeightCodeGuard",
    "WeightCodes",
    "harden",
    "methods",
    "profile",
]
