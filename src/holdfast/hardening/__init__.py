"""Transforms that make a model withstand faults in what it computes and stores."""

from holdfast.hardening.calibration import Calibration, SiteRange, calibrate
from holdfast.hardening.evaluate import FalsePositives, GuardReport, evaluate_guards
from holdfast.hardening.guards.checksum import ChecksumGuard
from holdfast.hardening.guards.checksum_method import Checksums
from holdfast.hardening.guards.duplication import DuplicateGuard, Duplication
from holdfast.hardening.guards.duplication_channels import ChannelGuard
from holdfast.hardening.guards.hardened_identity import HardenedIdentityGuard, identity_census
from holdfast.hardening.guards.median_of_three import MedianGuard, MedianOfThree
from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard
from holdfast.hardening.guards.range_protection import RangeProtection
from holdfast.hardening.guards.range_restriction import RangeRestriction
from holdfast.hardening.guards.weight_codes_guard import WeightCodeGuard, WeightCodes
from holdfast.hardening.harden import Hardening, Method, harden, methods
from holdfast.hardening.placement import Placement, place
from holdfast.hardening.presets import method_of
from holdfast.hardening.profile import Bounds, profile

__all__ = [
    "Bounds",
    "Calibration",
    "ChannelGuard",
    "ChecksumGuard",
    "Checksums",
    "DuplicateGuard",
    "Duplication",
    "FalsePositives",
    "GuardReport",
    "HardenedIdentityGuard",
    "Hardening",
    "MedianGuard",
    "MedianOfThree",
    "Method",
    "Placement",
    "RangeGuard",
    "RangeProtection",
    "RangeRestriction",
    "RecomputingRangeGuard",
    "SiteRange",
    "WeightCodeGuard",
    "WeightCodes",
    "calibrate",
    "evaluate_guards",
    "harden",
    "identity_census",
    "method_of",
    "methods",
    "place",
    "profile",
]
