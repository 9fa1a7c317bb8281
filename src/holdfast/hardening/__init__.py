"""Transforms that make a model withstand faults in what it computes."""

from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard
from holdfast.hardening.guards.range_restriction import RangeRestriction
from holdfast.hardening.harden import Hardening, Method, harden, methods
from holdfast.hardening.profile import Bounds, profile

__all__ = [
    "Bounds",
    "Hardening",
    "Method",
    "RangeGuard",
    "RangeRestriction",
    "RecomputingRangeGuard",
    "harden",
    "methods",
    "profile",
]
