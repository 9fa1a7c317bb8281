"""Guards: corrections that run at a site on every forward pass."""

from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard
from holdfast.hardening.guards.range_restriction import RangeRestriction

__all__ = ["RangeGuard", "RangeRestriction", "RecomputingRangeGuard"]
