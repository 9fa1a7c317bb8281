"""What a forward pass returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_KEYS = ("logits", "out")  # of transformers, and of torchvision's segmentation


def logits_of(output: Any) -> Any:
    """Return the scores in an output: what it calls ``logits``, or ``out`` in a dictionary; any other as it is."""
    if isinstance(output, Mapping):
        return next((output[key] for key in _KEYS if key in output), output)
    return getattr(output, "logits", output)


def with_logits(output: Any, scores: Tensor) -> Any:
    """Return ``output`` with ``scores`` in the place of those that :func:`logits_of` finds there."""
    found = logits_of(output)
    if found is output or found is scores:
        return scores if found is output else output
    changed = copy.copy(output)
    if isinstance(output, Mapping):
        changed[next(key for key in _KEYS if key in output)] = scores
    else:
        changed.logits = scores
    return changed
