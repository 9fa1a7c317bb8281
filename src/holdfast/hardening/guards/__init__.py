"""Guards: corrections that run at a site, or around the whole model, on every forward pass."""

from holdfast.hardening.guards.checksum import ChecksumGuard
from holdfast.hardening.guards.checksum_method import Checksums
from holdfast.hardening.guards.duplication import DuplicateGuard, Duplication
from holdfast.hardening.guards.duplication_channels import ChannelGuard
from holdfast.hardening.guards.median_of_three import MedianGuard, MedianOfThree
from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard
from holdfast.hardening.guards.range_protection import RangeProtection
from holdfast.hardening.guards.range_restriction import RangeRestriction
from holdfast.hardening.guards.weight_codes_guard import WeightCodeGuard, WeightCodes

__all__ = [
    "ChannelGuard",
    "ChecksumGuard",
    "Checksums",
    "DuplicateGuard",
    "Duplication",
    "MedianGuard",
    "MedianOfThree",
    "RangeGuard",
    "RangeProtection",
    "RangeRestriction",
    "RecomputingRangeGuard",
    "WeightCodeGuard",
    "WeightCodes",
]
