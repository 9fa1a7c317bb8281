"""A second device where there is none: real numbers that every operation takes for those of another device.

Tensors moved to :data:`AWAY` keep their values, behind torch's device ``meta``. An operation that mixes them with
tensors of the CPU fails as it would on a GPU, and so does reading them as an array; moving them back works. So a test
sees what was left on the wrong device, and compares results bit by bit. There are no addresses: code that tells tensors
apart by where they lie, as the tracing of sites does, cannot be tried with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

AWAY = torch.device("meta")
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)
_MADE_HERE = (torch.tensor, torch.as_tensor)


class _There(Tensor):
    """A tensor that lies away; ``inner`` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> _There:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=AWAY,
        )  # fmt: skip
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
    there = {id(item.inner): item for item in given if isinstance(item, _There)}
    wanted = kwargs.get("device")
    _require_one_device(func, args, given)
    args, kwargs = tree_map(lambda item: item.inner if isinstance(item, _There) else item, (args, kwargs))
    found = func(*args, **(kwargs if wanted is None else kwargs | {"device": torch.device("cpu")}))
    if not (there if wanted is None else torch.device(wanted) == AWAY):
        return found
    return tree_map(lambda item: there.get(id(item), _There(item)) if _is_plain(item) else item, found)


def _is_plain(item: object) -> bool:
    return isinstance(item, Tensor) and not isinstance(item, _There)


def _require_one_device(func: Any, args: Any, given: list[Tensor]) -> None:
    """Refuse what a GPU refuses: only copies, single numbers and lists of indices may come from elsewhere."""
    if any(_is_plain(item) and item.device == AWAY for item in given):
        raise RuntimeError(f"{func}: a tensor without numbers was made by a way that this device does not see")
    if func in _COPIES or not any(isinstance(item, _There) for item in given):
        return
    checked = tree_flatten((args[0], args[2:]))[0] if func.overloadpacket in _INDEXED else given
    if any(_is_plain(item) and item.dim() for item in checked):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, and found two")


class _Seen(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Sends there what torch would make on ``meta`` without asking anybody, and reads lists as a GPU lets one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist:
            return func(args[0].cpu())
        if func not in _MADE_HERE or kwargs.get("device") is None or torch.device(kwargs["device"]) != AWAY:
            return func(*args, **kwargs)
        return func(*args, **(kwargs | {"device": "cpu"})).to(AWAY)


@contextmanager
def away() -> Iterator[torch.device]:
    """Give the device for the length of a block; autocast there is the CPU's."""
    autocast, enabled = torch.autocast, torch.is_autocast_enabled

    def here(kind: str = "cpu") -> str:
        return "cpu" if kind == AWAY.type else kind

    with (
        mock.patch.object(torch, "autocast", lambda kind, *args, **kwargs: autocast(here(kind), *args, **kwargs)),
        mock.patch.object(torch, "is_autocast_enabled", lambda kind="cpu": enabled(here(kind))),
        _Made(),
        _Seen(),
    ):
        yield AWAY
