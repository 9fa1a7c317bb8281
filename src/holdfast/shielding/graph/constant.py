"""What does not depend on the input: computed once, and so refused where a second time would give another value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from holdfast.errors import InvalidConfig
from holdfast.numerics.bits import bit_equal
from holdfast.shielding.graph.naming import describe

_UNSET = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")
_SWITCHES = ("dropout_p", "p", "train", "training")  # arguments that switch off what an operation draws


def require_determined(graph: fx.Graph) -> None:
    """Refuse operations that draw random numbers: in a constant one draw would stay for ever.

    Raises:
        InvalidConfig: there is one; it is named.
    """
    for node in graph.nodes:
        if _draws(node):
            raise InvalidConfig(
                f"{describe(node)} draws random numbers, and an integer model has one result for an input",
                hint="leave random numbers out of forward in evaluation mode, or pass them in as a buffer",
            )


def fold_constants(graph: fx.Graph, values: dict[str, Any]) -> None:
    """Compute every node that depends on what is in ``values`` only, into ``values``.

    Raises:
        InvalidConfig: one reads memory that nobody has written.
    """
    known = dict(values)
    _fold(graph, values, 0)
    if any(_unset(node) and node.name in values for node in graph.nodes):
        _fold(graph, known, 1)
        _require_written(graph, values, known)


def _fold(graph: fx.Graph, values: dict[str, Any], blank: int) -> None:
    """Compute constants, with ``blank`` wherever memory is left as it is found."""
    for node in graph.nodes:
        if node.op != "call_function" or any(source.name not in values for source in node.all_input_nodes):
            continue
        args, keywords = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source.name])
        with torch.no_grad():
            made = node.target(*args, **keywords)
        values[node.name] = made.fill_(blank) if _unset(node) else made


def _require_written(graph: fx.Graph, once: dict[str, Any], again: dict[str, Any]) -> None:
    for node in graph.nodes:
        used = node.name in once and any(user.name not in once for user in node.users)
        if used and not _same(once[node.name], again[node.name]):
            raise InvalidConfig(
                f"{describe(node)} depends on memory that nobody has written",
                hint="use torch.zeros, or write all of what torch.empty returns",
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return bit_equal(one, other)
    if isinstance(one, tuple | list):
        return all(map(_same, one, other))
    return bool(one == other)


def _draws(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    declared = target._schema.arguments
    given: dict[str, Any] = {each.name: each.default_value for each in declared if each.has_default_value()}
    given |= dict(zip((each.name for each in declared), node.args, strict=False)) | node.kwargs
    return all(given.get(name, 1) not in (0, False) for name in _SWITCHES)


def _unset(node: fx.Node) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    return packet is not None and packet.__name__ in _UNSET
