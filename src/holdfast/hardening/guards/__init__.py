"""Guards: corrections that run at a site on every forward pass."""

from holdfast.hardening.guards.range_restriction import RangeGuard, RangeRestriction

__all__ = ["RangeGuard", "RangeRestriction"]
