"""The operations of integer models, all of them: what is not listed here neither exports nor loads.

A stored program names its operations, and torch knows some that read files or hand out memory as it was left. So the
list says what may be named, not what may not.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import exact

# they rearrange values, choose among them, or make whole numbers
MOVES = frozenset(
    (
        "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "expand_as", "cat",
        "stack", "slice", "select", "unsqueeze", "squeeze", "contiguous", "clone", "alias", "detach",
        "unbind", "split", "split_with_sizes", "chunk", "flatten", "unflatten", "repeat",
        "repeat_interleave", "embedding", "index", "index_select", "gather", "pad", "constant_pad_nd",
        "roll", "flip", "pixel_shuffle", "pixel_unshuffle", "narrow", "movedim", "swapaxes", "tril", "triu",
        "lift_fresh_copy", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros",
        "new_ones", "new_full", "arange", "scalar_tensor", "sym_size", "_to_copy", "to", "type_as",
        "expand_copy", "permute_copy", "diagonal",
    )
)  # fmt: skip
# one correctly rounded operation, or a choice, per element
ARITHMETIC = frozenset(
    (
        "add", "sub", "rsub", "mul", "div", "neg", "abs", "relu", "relu6", "hardtanh", "clamp", "clamp_min",
        "clamp_max", "maximum", "minimum", "sqrt", "floor", "ceil", "round", "trunc", "sign", "leaky_relu",
        "threshold", "amax", "amin", "max_pool2d", "max_pool2d_with_indices", "masked_fill", "where", "eq",
        "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "logical_xor", "__and__",
        "__or__", "bitwise_and", "bitwise_or", "bitwise_not", "isnan", "reciprocal", "upsample_nearest2d",
        "adaptive_max_pool2d",
    )
)  # fmt: skip
# exact only where they read and make whole numbers, which export sees to
WHOLE = frozenset(
    (
        "all", "any", "argmax", "argmin", "argsort", "bitwise_left_shift", "bitwise_right_shift", "bitwise_xor",
        "broadcast_to", "bucketize", "clip", "count_nonzero", "cumprod", "cumsum", "diff", "floor_divide", "fmod",
        "index_fill", "index_put", "isin", "max", "min", "one_hot", "pow", "prod", "remainder", "scatter",
        "searchsorted", "sort", "square", "sum", "swapdims", "take", "take_along_dim", "tile", "topk", "__lshift__",
        "__rshift__", "__xor__", "sym_numel", "sym_storage_offset",
    )
)  # fmt: skip
_DIVIDE = frozenset(("div", "floor_divide", "fmod", "remainder"))
_EXACT = frozenset(
    (
        "total", "mean", "layer_norm", "rms_norm", "group_norm", "scaled", "average_pool", "adaptive_average_pool",
        "inverse_root", "whole_power",
    )
)  # fmt: skip
_PYTHON = frozenset(("getitem", "add", "sub", "mul", "floordiv", "mod", "neg", "truediv"))
_WORDS = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": torch.device,
}


@functools.cache
def function(target: str) -> Callable[..., Any]:
    """Return what computes ``aten.OP.OVERLOAD``, ``exact.FUNCTION`` or ``python.FUNCTION``.

    Raises:
        InvalidConfig: no operation of integer models.
    """
    kind, _, name = target.partition(".")
    if kind == "exact" and name in _EXACT:
        return getattr(exact, name)  # type: ignore[no-any-return]
    if kind == "python" and name in _PYTHON:
        return functools.partial(_small, name)
    if kind == "aten" and name.partition(".")[0] in MOVES | ARITHMETIC | WHOLE:
        found: Any = torch.ops.aten
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, torch._ops.OpOverload) and not found._schema.is_mutable and _makes_tensors(found):
            return functools.partial(_divided, found) if name.partition(".")[0] in _DIVIDE else found
    raise InvalidConfig(f"an integer model has no operation {target!r}")


def _makes_tensors(operation: torch._ops.OpOverload) -> bool:
    """Say whether an operation of torch, and not of TorchScript alone, makes tensors, or tells their sizes.

    Others are arithmetic, lists and texts. Some of those read numbers out of tensors, which no colour follows
    (:mod:`~holdfast.shielding.graph.unfollowed`); some end the process over a division by zero, or a type that is none.
    """
    schema = operation._schema
    makes = any("Tensor" in str(made.type) for made in schema.returns) or schema.name.startswith("aten::sym_")
    return makes and bool(torch._C._dispatch_has_kernel(operation.name()))


def require_words(target: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
    """Require types of numbers, layouts and devices where an operation of torch declares them.

    It would take numbers for them as well, and read memory that is not its own where there is no such type.

    Raises:
        InvalidConfig: there is something else.
    """
    call = function(target)
    schema = getattr(call.args[0] if isinstance(call, functools.partial) else call, "_schema", None)
    declared = [] if schema is None else schema.arguments
    given: dict[str, Any] = {**dict(zip((each.name for each in declared), args, strict=False)), **keywords}
    for each in declared:
        kind = _WORDS.get(str(each.real_type).removeprefix("Optional[").removesuffix("]"))
        if kind is not None and not isinstance(given.get(each.name), kind | None):
            raise InvalidConfig(f"{each.name} is {given[each.name]!r:.40}")


def _divided(divide: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Divide, except the least whole number by minus one: the processor ends the process over it."""
    operands = [value for value in (*args, *keywords.values()) if isinstance(value, int | torch.Tensor)]
    if any(map(_is_least, operands)) and any(bool((torch.as_tensor(value) == -1).any()) for value in operands):
        raise InvalidConfig("the least whole number divided by -1 is none")
    return divide(*args, **keywords)


def _is_least(value: int | torch.Tensor) -> bool:
    if not isinstance(value, torch.Tensor):
        return value == torch.iinfo(torch.int64).min
    whole = not value.is_floating_point() and value.dtype != torch.bool
    return whole and bool((value == torch.iinfo(value.dtype).min).any())


def _small(name: str, *args: Any) -> Any:
    """Compute with numbers of at most 64 bits, or get one item: sequences do not grow, nor do numbers without end."""
    kinds = (list, tuple, torch.Tensor) if name == "getitem" else (int, float, torch.Tensor)
    if any(not isinstance(value, kinds) for value in args[: 1 if name == "getitem" else None]):
        raise InvalidConfig(f"python.{name} takes no {' and '.join(type(value).__name__ for value in args)}")
    result = _divided(getattr(operator, name), *args)
    if isinstance(result, int) and not -(2**63) <= result < 2**63:
        raise InvalidConfig(f"the result of python.{name} does not fit 64 bits")
    return result
