"""What a model is beside its state dict: modules, their settings, constants, and the steps of a graph.

Two models with the same names and shapes may compute different things: another activation, stride, top code or order.
So a sealed model carries this description, and opens into a model of the same description only. The code of a class is
named, not described: both sides run the same code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, TypeGuard

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
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def description(model: nn.Module) -> dict[str, str]:
    """Return every fact about ``model`` that its state dict does not state, by ``PATH.FACT``."""
    return {
        f"{path}.{fact}" if path else fact: text
        for path, module in model.named_modules()
        for fact, text in _facts(module)
    }


def _facts(module: nn.Module) -> Iterator[tuple[str, str]]:
    yield "class", _named(type(module))
    yield "modules", _text(list(module._modules))
    for hooks in _HOOKS:
        yield hooks.strip("_"), _text(list(getattr(module, hooks).values()))
    for name in sorted(module._non_persistent_buffers_set):
        yield name, _text(module._buffers[name])
    for name, value in sorted(module.__dict__.items()):
        if name not in _OF_TORCH and name != _CARD and not (name == _DERIVED and _accumulates(module)):
            yield name, _text(value)


def _text(value: object) -> str:
    """Return one text for equal values and another for different ones; what has no value is named by its class."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, Tensor):
        return f"tensor {tensor_digest('', value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(sorted(f"{_text(key)}: {_text(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_text, value))) + "}"
    if isinstance(value, functools.partial):
        return f"partial {_text([value.func, value.args, value.keywords])}"
    if is_dataclass(value) and not isinstance(value, type):
        return _named(type(value)) + _text({item.name: getattr(value, item.name) for item in fields(value)})
    return _named(value if hasattr(value, "__qualname__") else type(value))


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
