"""What a forward pass returns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

from torch import Tensor

from holdfast.errors import InvalidConfig

_KEYS = ("logits", "out")  # of transformers, and of torchvision's segmentation
_WRAP = "wrap it in a module whose forward returns the scores alone; other outputs have other tasks (docs/campaigns.md)"


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
    if isinstance(output, tuple):  # a named one
        return output._replace(logits=scores)  # type: ignore[attr-defined]
    changed = copy.copy(output)
    if isinstance(output, Mapping):
        changed[next(key for key in _KEYS if key in output)] = scores
        return changed
    try:
        changed.logits = scores
    except FrozenInstanceError:
        object.__setattr__(changed, "logits", scores)  # of a copy that nobody else has seen
    return changed


def require_scores(output: object) -> Tensor:
    """Return ``output``, one score for each class of each sample, shape (batch, classes).

    Raises:
        InvalidConfig: it is something else; says what.
    """
    if isinstance(output, Tensor) and output.dim() == 2:
        return output
    raise InvalidConfig(
        f"the model must return one tensor of shape (batch, classes), and returned {_described(output)}", hint=_WRAP
    )


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"one of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
