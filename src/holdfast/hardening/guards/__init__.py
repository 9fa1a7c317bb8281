"""Guards: corrections that run at a site, or around the whole model, on every forward pass."""

from holdfast.hardening.guards.checksum import ChecksumGuard, Checksums
from holdfast.hardening.guards.range_guard import RangeGuard, RecomputingRangeGuard
from holdfast.hardening.guards.range_restriction import RangeRestriction

__all__ = ["ChecksumGuard", "Checksums", "RangeGuard", "RangeRestriction", "RecomputingRangeGuard"]
