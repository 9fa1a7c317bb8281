"""Rules for what stays in the trusted world: reductions, tables, and operations that are exact as they are."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx

from holdfast.shielding.graph.leaves import Lookup
from holdfast.shielding.graph.lowering import Lowering, optional, target_name
from holdfast.shielding.graph.operations import ARITHMETIC, MOVES, WHOLE
from holdfast.shielding.graph.program import Ref
from holdfast.shielding.graph.rules import rules

# functions of one number that would otherwise depend on a mathematical library
TABLES = (
    "gelu", "silu", "sigmoid", "tanh", "exp", "erf", "elu", "celu", "selu", "softplus", "mish", "hardswish",
    "hardsigmoid", "log_sigmoid", "softsign",
)  # fmt: skip
_IGNORED = frozenset(("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size"))
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, None)


@rules.lower(*(f"aten.{name}.default" for name in TABLES), observes=(0,))
def table(lowering: Lowering, node: fx.Node) -> Any:
    """A function of one number becomes a table over the codes of its input."""
    rest, operation = node.args[1:], target_name(node).split(".")[1]
    call: Any = node.target
    leaf = Lookup(lambda grid: call(grid, *rest, **node.kwargs), lowering.peak(node, 0))
    path = lowering.path_for(node, operation)
    return lowering.module(node, path, leaf, lowering.value(node.args[0]), operation=operation)


@rules.lower("aten.mean.dim", "aten.sum.dim_IntList")
def reduction(lowering: Lowering, node: fx.Node) -> Any:
    """A sum or mean over some dimensions of each sample."""
    source, dims = cast(fx.Node, node.args[0]), cast(Any, node.args[1])
    sides = source.meta["val"].shape  # that of the batch, wherever it stands, is a symbol
    if not dims or any(not isinstance(sides[dim], int) for dim in dims):
        raise lowering.refuse(node, "mixes the samples of a batch", "reduce over the dimensions of one sample only")
    if "sum" in str(node.target) and _whole(lowering, node):
        return lower_other(lowering, node)  # whole numbers stay such, and may be places
    word = "mean" if "mean" in str(node.target) else "total"
    kept = optional(node, 2, "keepdim", False)
    return lowering.call(node, f"exact.{word}", lowering.value(source), list(dims), kept)


@rules.lower("aten.layer_norm.default", "aten.rms_norm.default", "aten.group_norm.default")
def normalisation(lowering: Lowering, node: fx.Node) -> Any:
    """Layer, root-mean-square and group normalisation."""
    word = target_name(node).split(".")[1]
    args = [lowering.value(argument) for argument in node.args]
    if len(args) > 1 and isinstance(args[1], list | tuple):
        if any(isinstance(side, Ref) for side in args[1]):  # that of the batch, which is known only when it runs
            raise lowering.refuse(node, "mixes the samples of a batch", "normalise over dimensions of one sample only")
        args[1] = [int(side) for side in args[1]]
    keywords = {"epsilon" if key == "eps" else key: lowering.value(value) for key, value in node.kwargs.items()}
    return lowering.call(node, f"exact.{word}", *args, **keywords)


@rules.lower("aten.avg_pool2d.default")
def average_pool(lowering: Lowering, node: fx.Node) -> Any:
    """Average pooling over windows."""
    return lowering.call(node, "exact.average_pool", *(lowering.value(argument) for argument in node.args))


@rules.lower("aten.adaptive_avg_pool2d.default")
def adaptive_average_pool(lowering: Lowering, node: fx.Node) -> Any:
    """Average pooling to a given size."""
    sizes: Any = node.args[1]
    return lowering.call(node, "exact.adaptive_average_pool", lowering.value(node.args[0]), list(sizes))


@rules.lower("aten.rsqrt.default")
def inverse_root(lowering: Lowering, node: fx.Node) -> Any:
    """``1 / sqrt(x)`` in two roundings."""
    return lowering.call(node, "exact.inverse_root", lowering.value(node.args[0]))


@rules.lower("aten.pow.Tensor_Scalar")
def power(lowering: Lowering, node: fx.Node) -> Any:
    """Powers that products and roots give."""
    if node.args[1] not in (-1, -0.5, 0.5, 1, 2, 3, 4):
        raise lowering.refuse(node, f"raises to the power {node.args[1]}", "exact powers: -1, -0.5, 0.5, 1, 2, 3, 4")
    return lowering.call(node, "exact.whole_power", lowering.value(node.args[0]), node.args[1])


@rules.lower("aten.view", "aten._unsafe_view")
def view(lowering: Lowering, node: fx.Node) -> Any:
    """A view; strides of exact steps may differ from those that were traced, so it may copy."""
    args = [lowering.value(argument) for argument in node.args]
    return lowering.call(node, "aten.reshape.default", *args, moves=True)


@rules.lower("aten.add.Tensor", "aten.sub.Tensor")
def sum_of_two(lowering: Lowering, node: fx.Node) -> Any:
    """``a + alpha * b`` in two roundings, where one fused operation would give other bits on other hardware."""
    left, right = (lowering.value(argument) for argument in node.args)
    if (alpha := node.kwargs.get("alpha", 1)) != 1:
        right = lowering.call(node, "aten.mul.Tensor", right, alpha, part="times")
    return lowering.call(node, target_name(node), left, right)


def lower_other(lowering: Lowering, node: fx.Node) -> Any:
    """Lower a node without a rule of its own: exact as it is, whole numbers only, or refused.

    Raises:
        InvalidConfig: no exact form is known; the node is named.
    """
    name = target_name(node)
    kind, word, *_ = name.split(".")
    if word in _IGNORED:
        return None
    if word == "getitem":
        return _item(lowering, node)
    if kind == "python" or word in MOVES or word in ARITHMETIC or (word in WHOLE and _whole(lowering, node)):
        args = [lowering.value(argument) for argument in node.args]
        keywords = {key: lowering.value(value) for key, value in node.kwargs.items() if key != "memory_format"}
        moves = kind == "python" or word in MOVES or word.startswith("sym_")
        return lowering.call(node, name, *args, moves=moves, **keywords)
    raise lowering.refuse(
        node,
        "has no exact form in the trusted world",
        "replace the operation, or shield the model as it is with int8_model(), whose trusted part is float code",
    )


def _item(lowering: Lowering, node: fx.Node) -> Any:
    source: Any = lowering.value(node.args[0])
    place: Any = node.args[1]
    if isinstance(source, tuple):  # the outputs of a batch normalisation
        return source[place]
    return lowering.call(node, "python.getitem", source, place, moves=True)


def _whole(lowering: Lowering, node: fx.Node) -> bool:
    """Say whether a node reads and makes nothing but whole numbers, on which every operation is exact."""
    return all(not isinstance(part, Tensor) or part.dtype in _WHOLE for part in lowering.tensors(node))
