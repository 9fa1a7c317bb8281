"""What a forward pass returns."""

from __future__ import annotations

from typing import Any


def logits_of(output: Any) -> Any:
    """Return the ``logits`` of an output of transformers, and any other output as it is."""
    return getattr(output, "logits", output)
