"""What a stored program may cost while it is proved: every operation says its size before anything is computed.

A program of a few kilobytes can double a tensor until memory is gone. So each operation of torch first runs on the meta
device, which knows shapes and holds no values, and only then on numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from holdfast.errors import InvalidConfig

FLOOR = 2**27  # elements that one operation may make, whatever the model
PER_WEIGHT = 64  # and more for every element of the model's tensors, which its file has to hold
_TOGETHER = 64  # times as much for all operations together
_KEPT = 2  # times as much for all values that are still to be read
_PER_OPERATION = 2**14  # what calling an operation costs, in elements
_PRODUCTS = 64  # products of one sum that cost as much as one element
_SUMS = ("mm", "bmm", "addmm", "baddbmm", "_int_mm")
_SORTS, _COMPARISONS = ("sort", "argsort", "topk", "searchsorted", "isin"), 2**10
_POOLS = ("max_pool2d_with_indices", "avg_pool2d")


class Budget(TorchDispatchMode):
    """Refuses operations that make, or work through, more elements than a model of its size has use for.

    Args:
        weights: elements of the model's tensors.
        samples: that are computed within it, one after another or together.

    Attributes:
        most: elements that one operation may make: ``FLOOR + PER_WEIGHT * weights``.

    Raises:
        InvalidConfig: within the context, when an operation is about to go beyond it, before it is computed.
    """

    def __init__(self, weights: int, *, samples: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = FLOOR + PER_WEIGHT * weights
        self._left, self._held, self._sizes = _TOGETHER * self.most * samples, 0, dict[str, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = kwargs or {}
        self._spend(_PER_OPERATION * _parts(func, args))
        made, read = _elements(_foreseen(func, args, keywords)), _elements((args, keywords))
        if made > self.most:
            raise InvalidConfig(f"it makes {made} elements, where a model of this size may make {self.most}")
        self._spend(made + read + made * _depth(func, args) // _PRODUCTS)
        return func(*args, **keywords)

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise InvalidConfig(f"with it, the steps cost more than {_TOGETHER} times {self.most} elements")

    def keep(self, name: str, value: Any, spent: Iterable[str]) -> None:
        """Require that all values still to be read have at most twice ``most`` elements; drop those of ``spent``."""
        self._sizes[name] = _elements(value)
        self._held += self._sizes[name]
        if self._held > _KEPT * self.most:
            raise InvalidConfig(f"with it, {self._held} elements are kept, more than {_KEPT} times {self.most}")
        self._held -= sum(self._sizes.pop(other, 0) for other in spent)


def _elements(values: Any) -> int:
    return sum(part.numel() for part in tree_leaves(values) if isinstance(part, Tensor))


def _shadow(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value


def _foreseen(func: Any, args: Any, keywords: Any) -> Any:
    """Return tensors without values, of the shapes that ``func`` will make."""
    if all("Tensor" not in str(returned.type) for returned in func._schema.returns):
        return ()
    shadows: Any = tree_map(_shadow, (args, dict(keywords)))
    if _makes(func):
        shadows[1]["device"] = torch.device("meta")
    try:
        return func(*shadows[0], **shadows[1])
    except NotImplementedError as error:
        raise InvalidConfig(f"the size of what {func} makes depends on values") from error


def _makes(func: Any) -> bool:
    """Say whether ``func`` makes a tensor on a device that it is told."""
    return any(argument.name == "device" for argument in func._schema.arguments)


def _parts(func: Any, args: Any) -> int:
    """Return the largest number of tensors that ``func`` can return: splitting makes many of few elements."""
    if all(str(returned.type) != "List[Tensor]" for returned in func._schema.returns) or not args:
        return 1
    side = max((1, *(size for part in tree_leaves(args[0]) if isinstance(part, Tensor) for size in part.shape)))
    if len(args) > 1 and "split" in str(func):
        return len(args[1]) if isinstance(args[1], list | tuple) else -(-side // max(args[1], 1))
    return side


def _depth(func: Any, args: Any) -> int:
    """Return how many products or comparisons one element takes, where that is more than one."""
    name = func._schema.name.partition("::")[2]
    if name in _SUMS:
        return int(args[-1].shape[-2]) if isinstance(args[-1], Tensor) else 1
    if "convolution" in name or "conv2d" in name:
        return int(math.prod(args[1].shape[1:]))
    if name in _POOLS:
        return int(math.prod(args[1])) if len(args[1]) > 1 else int(args[1][0]) ** 2
    return _COMPARISONS if name in _SORTS else 1
