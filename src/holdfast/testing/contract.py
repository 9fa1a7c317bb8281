"""How a broken contract is reported."""

from __future__ import annotations


class ContractBroken(AssertionError):
    """An implementation breaks a law of its extension point; the message names both."""


def require(holds: bool, subject: object, law: str) -> None:
    """Raise :class:`ContractBroken` unless ``holds``."""
    if not holds:
        raise ContractBroken(f"{subject}: {law}")
