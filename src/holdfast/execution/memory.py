"""What is said when memory is exhausted."""

from __future__ import annotations

from holdfast.errors import TrialError
from holdfast.models.memory import is_out_of_memory

__all__ = ["is_out_of_memory", "too_small"]


def too_small() -> TrialError:
    """Return the error to raise when not even one input fits."""
    hint = "free memory or take another machine; what is in the store is kept"
    return TrialError("one input at a time does not fit in memory", hint=hint)
