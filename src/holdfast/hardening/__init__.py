"""Transforms that make a model withstand faults in what it computes."""

from holdfast.hardening.guards.range_restriction import RangeGuard, RangeRestriction
from holdfast.hardening.harden import Hardening, harden
from holdfast.hardening.profile import Bounds, profile

__all__ = ["Bounds", "Hardening", "RangeGuard", "RangeRestriction", "harden", "profile"]
