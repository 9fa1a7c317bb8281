"""Steps that no colour can follow: where a size, a place or a setting is what a tensor holds.

Colours are of the elements of tensors. A number that is read out of one has none, nor has a shape that depends on what
is in it; and shapes become whole numbers again. So what one sample holds could reach another that way unseen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from holdfast.shielding.graph.operations import function

_MASKS = (torch.bool, torch.uint8)


def cannot_be_followed(target: str, real: tuple[Any, ...], args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Say whether a step takes a tensor where it wants numbers, or makes as many elements as values tell it to.

    Args:
        target: of the step.
        real: its arguments.
        args: the same with colours in place of tensors.
        keywords: likewise.
    """
    kind, _, word = target.partition(".")
    if kind == "module":
        return False
    if kind == "python":
        return word == "getitem" and _holds_tensor(args[1:])
    given = list(_given(function(target), args, keywords))
    if any(_holds_tensor(value) for _, declared, value in given if "Tensor" not in declared):
        return True
    named = {name: value for name, _, value in given}
    return kind == "aten" and _sized_by_values(word.partition(".")[0], real, named)


def _given(call: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the name and declared type of every argument that is given, and the argument."""
    schema = getattr(call.args[0] if isinstance(call, partial) else call, "_schema", None)  # division is wrapped
    if schema is not None:
        declared = {each.name: str(each.type) for each in schema.arguments}
    else:
        declared = {name: str(each.annotation) for name, each in inspect.signature(call).parameters.items()}
    for name, value in (dict(zip(declared, args, strict=False)) | keywords).items():
        yield name, declared.get(name, ""), value


def _sized_by_values(word: str, real: tuple[Any, ...], given: dict[str, Any]) -> bool:
    """Say whether an operation of ATen, which may, picks or makes as many elements as values tell it to."""
    if word == "one_hot":
        return bool(given.get("num_classes", -1) < 0)
    if word in ("where", "repeat_interleave", "narrow"):
        return len(given) == 1 or any(isinstance(given.get(name), Tensor) for name in ("repeats", "start"))
    if word != "index" or len(real) < 2:
        return word == "index"
    masks = [colours for index, colours in zip(real[1], given["indices"], strict=True) if _is_mask(index)]
    return any(bool(colours.any()) for colours in masks)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in _MASKS


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(part, Tensor) for part in tree_leaves(value))
