"""What a model is beside its state dict: modules, their settings, constants, and the steps of a graph.

Two models with the same names and shapes may compute different things: another activation, stride, top code or order.
So a sealed model carries this description, and opens into a model of the same description only. The code of a class is
named, not described: both sides run the same code.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.models.tensors import tensor_digest
from holdfast.shielding.integer import IntegerLayer, accumulator_bound

if TYPE_CHECKING:
    from holdfast.shielding.graph.leaves import GroupedConvolution

    Accumulating = IntegerLayer | GroupedConvolution

_OF_TORCH = frozenset(nn.Module().__dict__)  # parameters, buffers, hooks, and whether it trains
_CARD = "_holdfast"
_DERIVED = "bound"  # of a layer's weights, so it is proved again from those that are opened
_PLAIN = bool | int | float | complex | str | bytes | Enum | slice | torch.dtype | torch.device | torch.memory_format
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def description(model: nn.Module) -> dict[str, str]:
    """Return every fact about ``model`` that its state dict does not state, by ``PATH.FACT``."""
    return {
        f"{path}.{fact}" if path else fact: text
        for path, module in model.named_modules()
        for fact, text in _facts(module)
    }


def _facts(module: nn.Module) -> Iterator[tuple[str, str]]:
    yield "(class)", _named(type(module))  # in brackets, since no attribute is called so
    yield "(modules)", _text(list(module._modules))
    for hooks in _HOOKS:
        yield f"({hooks.strip('_')})", _text(list(getattr(module, hooks).values()))
    for name in sorted(module._non_persistent_buffers_set):
        yield name, _text(module._buffers[name])
    for name, value in sorted(module.__dict__.items()):
        if name not in _OF_TORCH and name != _CARD and not (name == _DERIVED and _accumulates(module)):
            yield name, _text(value)


def _text(value: object, inside: tuple[int, ...] = ()) -> str:
    """Return one text for equal values and another for different ones; functions and modules are named.

    Args:
        inside: identities of the objects that hold ``value``, lest one that holds itself be described for ever.
    """
    if value is None or isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return f"tensor {tensor_digest('', value)}"
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype.str}{value.shape} {hashlib.sha256(np.asarray(value).tobytes()).hexdigest()}"
    if id(value) in inside or isinstance(value, nn.Module) or hasattr(value, "__qualname__"):
        return _named(value if hasattr(value, "__qualname__") else type(value))
    within = (*inside, id(value))
    if isinstance(value, Mapping):
        return _set(f"{_text(key, within)}: {_text(item, within)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item, within) for item in value) + "]"
    if isinstance(value, set | frozenset):
        return _set(_text(item, within) for item in value)
    return _named(type(value)) + _text(_parts(value), within)


def _parts(value: object) -> dict[str, object]:
    """Return what an object of any other class is made of."""
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    return dict(vars(value)) if hasattr(value, "__dict__") else {}


def _set(texts: Iterable[str]) -> str:
    return "{" + ", ".join(sorted(texts)) + "}"


def _named(value: object) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


def _accumulates(module: nn.Module) -> TypeGuard[Accumulating]:
    from holdfast.shielding.graph.leaves import GroupedConvolution

    return isinstance(module, IntegerLayer | GroupedConvolution)


def proved_bounds(model: nn.Module, state: Mapping[str, Tensor]) -> list[tuple[Accumulating, int]]:
    """Return the layers of ``model`` that accumulate, each with its proved bound under the weights of ``state``.

    Raises:
        InvalidConfig: an accumulator could overflow int32.
    """
    return [
        (module, accumulator_bound(state[f"{path}.codes" if path else "codes"], module.top_code, layer=path))
        for path, module in model.named_modules()
        if _accumulates(module)
    ]
