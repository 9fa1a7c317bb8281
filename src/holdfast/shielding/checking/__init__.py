"""Deciding whether a product is true without computing it."""

from holdfast.shielding.checking.freivalds import (
    ESCAPE,
    Check,
    Freivalds,
    FreivaldsVerifier,
    Verifier,
    checks,
    require_entropy,
)

__all__ = ["ESCAPE", "Check", "Freivalds", "FreivaldsVerifier", "Verifier", "checks", "require_entropy"]
