"""Which samples of a batch each value of a graph depends on, element by element, whatever the numbers are.

Every element has the colours of the samples that it depends on (:mod:`~holdfast.shielding.graph.colours`). What only
moves values moves colours by the same operation; arithmetic joins those of its operands; a sum or a choice along a
dimension joins those along it, and so does an index into it that depends on samples. Every operation without a rule
here joins all that it reads: that may blame a graph that keeps samples apart, and never clears one that does not. What
has no colours at all, a number or a shape that is read out of a tensor, ends it
(:mod:`~holdfast.shielding.graph.unfollowed`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from holdfast.shielding.graph.colours import blank, joined
from holdfast.shielding.graph.leaves import GroupedConvolution, Lookup, Product, Softmax
from holdfast.shielding.graph.operations import ARITHMETIC, function
from holdfast.shielding.graph.program import Step
from holdfast.shielding.graph.unfollowed import cannot_be_followed
from holdfast.shielding.integer import IntegerLayer

_MAKES = frozenset(
    ("zeros", "ones", "full", "arange", "scalar_tensor", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like",
     "full_like", "sym_size", "sym_numel", "sym_storage_offset")
)  # fmt: skip
_NO_RULE = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)
_KEEPS = frozenset(("_to_copy", "to", "type_as", "lift_fresh_copy", "clone", "alias", "detach", "contiguous"))
_MOVES = frozenset(
    ("permute", "transpose", "t", "expand", "cat", "stack", "slice", "select", "unsqueeze", "squeeze", "unbind",
     "split", "split_with_sizes", "chunk", "flatten", "unflatten", "repeat", "pixel_shuffle", "pixel_unshuffle",
     "narrow", "movedim", "swapaxes", "swapdims", "roll", "flip", "tril", "triu", "expand_copy", "permute_copy",
     "diagonal", "tile", "broadcast_to", "reshape")
)  # fmt: skip
_POOLS = frozenset(("max_pool2d", "max_pool2d_with_indices", "upsample_nearest2d", "adaptive_max_pool2d"))
_ALONG = frozenset(
    ("amax", "amin", "all", "any", "argmax", "argmin", "count_nonzero", "prod", "sum", "max", "min", "cumsum",
     "cumprod", "sort", "argsort", "topk")
)  # fmt: skip
_EACH = (ARITHMETIC - _POOLS - _ALONG) | frozenset(
    ("bitwise_left_shift", "bitwise_right_shift", "bitwise_xor", "clip", "floor_divide", "fmod", "pow", "remainder",
     "square", "__lshift__", "__rshift__", "__xor__")
)  # fmt: skip


class Influence:
    """Follows colours through the steps of a graph.

    Args:
        modules: what computes the steps of target ``module``.

    Attributes:
        lost: the first step that cannot be followed; nothing that is said after it counts.
    """

    def __init__(self, modules: Callable[[str], nn.Module]) -> None:
        self._modules = modules
        self.lost: str | None = None

    def after(
        self, step: Step, real: tuple[Any, ...], args: tuple[Any, ...], keywords: dict[str, Any], value: Any
    ) -> Any:
        """Return the colours of what ``step`` made.

        Args:
            real: its arguments.
            args: the same with colours in place of tensors.
            keywords: likewise.
            value: what it made; of what is no tensor, itself.
        """
        if self.lost is None and _is_lost(step, real, args, keywords):
            self.lost = step.name
        try:
            found = self._by_rule(step, real, args, keywords, value)
        except _NO_RULE:
            found = None
        return found if _fits(found, value) else _all((args, keywords), value)  # without a rule the worst is true of it

    def _by_rule(
        self, step: Step, real: tuple[Any, ...], args: tuple[Any, ...], keywords: dict[str, Any], value: Any
    ) -> Any:
        if not any(isinstance(part, Tensor) for part in tree_leaves(value)):
            return value
        kind, _, rest = step.target.partition(".")
        if kind == "module":
            return _all(args, value) if keywords else _of_module(self._modules(step.path), args, value)
        if kind == "exact":
            return _of_exact(rest, _in_order(function(step.target), args, keywords), value)
        if kind == "python":
            return args[0][args[1]] if rest == "getitem" else _each(args, value)
        return _of_torch(step.target, real, args, keywords, value)


def _is_lost(step: Step, real: tuple[Any, ...], args: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Say whether a step cannot be followed, which is so as well where that cannot be told."""
    try:
        return cannot_be_followed(step.target, real, args, keywords)
    except (LookupError, *_NO_RULE):
        return True


def _fits(found: Any, value: Any) -> bool:
    """Say whether colours have the shapes of what they are of: a rule may be for another form of its operation."""
    shapes = [[part.shape for part in tree_leaves(tree) if isinstance(part, Tensor)] for tree in (found, value)]
    return shapes[0] == shapes[1]


def _in_order(call: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    bound = inspect.signature(call).bind(*args, **keywords)
    bound.apply_defaults()
    return tuple(bound.arguments.values())


def _of_module(part: nn.Module, args: tuple[Any, ...], value: Tensor) -> Any:
    x: Tensor = args[0]
    if isinstance(part, Product):
        return joined(x, (x.dim() - 1,)) | joined(args[1], (args[1].dim() - 2,))
    if isinstance(part, IntegerLayer) and part.geometry.kind == "linear":
        return joined(x, (x.dim() - 1,)).expand(value.shape)
    if isinstance(part, IntegerLayer | GroupedConvolution) and x.dim() == 4:
        rows = joined(x, range(1, x.dim())).flatten()
        return rows.view(-1, *[1] * (value.dim() - 1)).expand(value.shape)
    if isinstance(part, Softmax):
        return joined(x, (part.dim % x.dim(),)).expand(value.shape)
    return _each(args, value) if isinstance(part, Lookup) else _all(args, value)


def _of_exact(name: str, args: tuple[Any, ...], value: Tensor) -> Any:
    x = args[0]
    if name in ("total", "mean"):
        return _along(x, args[1], value)
    if name in ("layer_norm", "rms_norm"):
        return _each((joined(x, range(x.dim() - len(args[1]), x.dim())), *args[2:]), value)
    if name == "group_norm":
        weights = [joined(part, range(part.dim())).reshape(()) for part in args[2:] if isinstance(part, Tensor)]
        return _each((joined(x, range(1, x.dim())), weights), value)
    if name in ("average_pool", "adaptive_average_pool"):
        return joined(x, (x.dim() - 2, x.dim() - 1)).expand(value.shape)
    return _each(args, value) if name in ("scaled", "inverse_root", "whole_power") else _all(args, value)


def _of_torch(target: str, real: tuple[Any, ...], args: tuple[Any, ...], keywords: dict[str, Any], value: Any) -> Any:
    word, call = target.split(".")[1], cast("torch._ops.OpOverload[..., Any]", function(target))
    tensors = any(isinstance(part, Tensor) for part in tree_leaves(keywords))
    if word in _EACH or (word in ("max", "min") and any(isinstance(part, Tensor) for part in args[1:])):
        return _each((args, keywords), value)
    if word in _MAKES:
        return tree_map(blank, value)
    if tensors:
        return _all((args, keywords), value)
    if word in _KEEPS:
        return args[0]
    if word in ("view", "_unsafe_view") and value.dtype == real[0].dtype:
        return args[0].reshape(value.shape)  # colours lie otherwise in memory than what they are of
    if word == "expand_as":
        return args[0].expand(value.shape)
    if word in _MOVES or (word == "repeat_interleave" and isinstance(real[1], int)):
        return call(*args, **keywords)
    if word in ("pad", "constant_pad_nd"):
        return _padded(args, keywords, value)
    if word in ("index", "index_select", "gather", "embedding"):
        return _picked(word, call, real, args, value)
    if word in _POOLS:
        return tree_map(lambda part: joined(args[0], (args[0].dim() - 2, args[0].dim() - 1)).expand(part.shape), value)
    if word in _ALONG:
        dims = _dims(call, args, keywords)
        return tree_map(lambda part: _along(args[0], dims, part), value)
    return args[0].unsqueeze(-1).expand(value.shape) if word == "one_hot" else _all((args, keywords), value)


def _padded(args: tuple[Any, ...], keywords: dict[str, Any], value: Tensor) -> Any:
    modes = [part for part in (*args, *keywords.values()) if isinstance(part, str)]
    return _all(args, value) if set(modes) - {"constant"} else torch.nn.functional.pad(args[0], list(args[1]))


def _picked(word: str, call: Any, real: tuple[Any, ...], args: tuple[Any, ...], value: Tensor) -> Any:
    """Return the colours of what an index picks: they move with it where it is the same for all samples."""
    if word == "embedding":
        return _all(args, value) if args[0].any() else args[1].unsqueeze(-1).expand(value.shape)
    if not any(part.any() for part in tree_leaves(args[1:]) if isinstance(part, Tensor)):
        return call(args[0], *real[1:])
    if word == "gather":
        across = joined(args[0], (args[1] % args[0].dim(),)).expand(args[0].shape)
        found: Tensor = call(across, args[1], real[2])
        return found | args[2]
    return _indexed(call, real[1], args, value) if word == "index" else _all(args, value)


def _indexed(call: Any, indices: Any, args: tuple[Any, ...], value: Tensor) -> Tensor:
    """Return the colours of ``x[indices]``: an index that depends on samples may pick anything along its dimension.

    Raises:
        NotImplementedError: one is a mask, which stands for several.
    """
    x, tints = args
    places = [place for place, index in enumerate(indices) if isinstance(index, Tensor)]
    if any(indices[place].dtype in (torch.bool, torch.uint8) for place in places):
        raise NotImplementedError("masks")
    found: Tensor = call(joined(x, [place for place in places if tints[place].any()]).expand(x.shape), indices)
    picks: Tensor = functools.reduce(torch.bitwise_or, [tints[place] for place in places])
    before = places[0] if places[-1] - places[0] < len(places) else 0  # where torch puts what indices span
    after = value.dim() - before - picks.dim()
    return found | picks.reshape(*[1] * before, *picks.shape, *[1] * after)


def _dims(call: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Return the dimensions that an operation goes along: as given, or as its schema has them."""
    for place, argument in enumerate(call._schema.arguments):
        if argument.name == "dim":
            return keywords.get("dim", args[place] if place < len(args) else argument.default_value)
    return None


def _along(colours: Tensor, dims: Any, value: Tensor) -> Tensor:
    listed = [dims] if isinstance(dims, int) else list(dims or range(colours.dim()))
    axes = {dim % max(colours.dim(), 1) for dim in listed}
    found = joined(colours, sorted(axes))
    if found.dim() != value.dim():
        found = found.reshape([side for dim, side in enumerate(found.shape) if dim not in axes])
    return found.expand(value.shape)


def _each(args: Any, value: Tensor) -> Tensor:
    found = torch.zeros(value.shape, dtype=torch.uint8)
    for part in tree_leaves(args):
        if isinstance(part, Tensor):
            found |= part
    return found


def _all(args: Any, value: Any) -> Any:
    """Return for every element of ``value`` the colours of all that was read."""
    colour = 0
    for part in tree_leaves(args):
        if isinstance(part, Tensor) and part.numel():
            colour |= int(joined(part, range(part.dim())))
    return tree_map(lambda part: torch.full((), colour, dtype=torch.uint8).expand(part.shape), value)
