"""What a model is beside its state dict: modules, their settings, constants, and the steps of a graph.

Two models with the same names and shapes may compute different things: another activation, stride, top code or order.
So a sealed model carries this description, and opens into a model of the same description only. The code of a class is
named, not described: both sides run the same code. A closure is described, with what it captured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

from holdfast.shielding.integer import IntegerLayer, accumulator_bound
from holdfast.shielding.sealing.memory import is_plain, sharing, tensors_of
from holdfast.shielding.sealing.values import CARD, OF_TORCH, Values, manner

if TYPE_CHECKING:
    from holdfast.shielding.graph.leaves import GroupedConvolution

    Accumulating = IntegerLayer | GroupedConvolution

_DERIVED = "bound"  # of a layer's weights, so it is proved again from those that are opened


def description(model: nn.Module) -> dict[str, str]:
    """Return every fact about ``model`` that its state dict does not state, by ``PATH.FACT``.

    Raises:
        InvalidConfig: it holds something that cannot be described; the message names it.
    """
    values, tensors = Values(model), tensors_of(model)
    facts = {
        name: value
        for path, module in model.named_modules()
        for name, value in ((f"{path}.{fact}" if path else fact, value) for fact, value in _facts(module))
    } | {f"{name}.(tensor)": _beside_numbers(tensor) for name, tensor in tensors.items() if not is_plain(tensor)}
    return {name: values.text(value, name) for name, value in facts.items()} | sharing(tensors)


def _facts(module: nn.Module) -> Iterator[tuple[str, object]]:
    yield "(class)", type(module)  # in brackets, since no attribute is called so
    yield "(modules)", dict(module._modules)  # by name and in order; one may come twice
    yield "(tensors)", [list(module._parameters), list(module._buffers)]
    yield from manner(module).items()
    yield from sorted((module._parameters | module._buffers).items())  # values only of what no state dict holds
    for name, value in sorted(module.__dict__.items()):
        if name not in OF_TORCH and name != CARD and not (name == _DERIVED and _accumulates(module)):
            yield name, value


def _beside_numbers(tensor: Tensor) -> dict[str, object]:
    """Return what a tensor is that no state dict has: a class that may compute otherwise, and attributes."""
    return {"class": type(tensor)} | vars(tensor)


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
