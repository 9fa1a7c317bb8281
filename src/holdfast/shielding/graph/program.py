"""The integer model: a list of steps over named values, each exact, with its linear nodes as integer layers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph import exact
from holdfast.shielding.graph.leaves import GroupedConvolution, Product
from holdfast.shielding.integer import IntegerLayer

_PYTHON = {"getitem", "add", "sub", "mul", "floordiv", "mod", "neg", "truediv"}


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of another step, the input, or a constant."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation.

    Attributes:
        name: of its value.
        target: ``aten.OP.OVERLOAD``, ``exact.FUNCTION``, ``python.FUNCTION`` or ``module``.
        path: of the submodule that computes it, for ``module``.
        operation: what a plan calls it.
        elements: of its output, per sample; 0 for what is no tensor.
        moves: it only rearranges values, or picks among them, and computes nothing.
    """

    name: str
    target: str
    path: str = ""
    operation: str = ""
    args: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    elements: int = 0
    moves: bool = False

    def sources(self) -> Iterator[str]:
        """Yield the names of the values it reads."""
        yield from _names((self.args, tuple(self.keywords.values())))


def _names(value: object) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _names(part)


def _bound(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace references by the values they name."""
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, list | tuple):
        return type(value)(_bound(part, values) for part in value)
    return value


@functools.cache
def _function(target: str) -> Callable[..., Any]:
    kind, _, name = target.partition(".")
    if kind == "exact":
        return getattr(exact, name)  # type: ignore[no-any-return]
    if kind == "python" and name in _PYTHON:
        return getattr(operator, name)  # type: ignore[no-any-return]
    if kind == "aten":
        return functools.reduce(getattr, name.split("."), torch.ops.aten)  # type: ignore[return-value]
    raise InvalidConfig(f"an integer model has no operation {target!r}")


class IntegerModel(nn.Module):
    """A model whose bits depend on the sample alone: not on the batch, nor on the number of threads.

    Made by :func:`~holdfast.shielding.graph.export`. Its integer layers are what a session can offload.

    Args:
        steps: in order.
        modules: what computes the steps of target ``module``, by path.
        constants: tensors that steps refer to, by name.
        input: name of the input value.
        output: name of the value to return.
        input_shape: of one sample.
        top_code: activation codes of linear nodes are -top_code .. top_code.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        modules: Mapping[str, nn.Module],
        constants: Mapping[str, Tensor],
        *,
        input: str,
        output: str,
        input_shape: tuple[int, ...],
        top_code: int,
    ) -> None:
        super().__init__()
        self.steps, self.input, self.output = steps, input, output
        self.input_shape, self.top_code = input_shape, top_code
        for path, module in modules.items():
            _place(self, path, module)
        self._constants = tuple(constants)
        for name, value in constants.items():
            self.register_buffer(f"constant_{name}", value)
        self._spent = _last_uses(steps, output)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (batch, *sample)."""
        values: dict[str, Any] = {name: self.get_buffer(f"constant_{name}") for name in self._constants}
        values[self.input] = x.float() if x.is_floating_point() else x
        with torch.no_grad():
            for step, spent in zip(self.steps, self._spent, strict=True):
                call = self.get_submodule(step.path) if step.target == "module" else _function(step.target)
                keywords = {key: _bound(value, values) for key, value in step.keywords.items()}
                values[step.name] = call(*_bound(step.args, values), **keywords)
                for name in spent:
                    del values[name]
        result: Tensor = values[self.output]
        return result

    def bounds(self) -> dict[str, int]:
        """Return the proved largest accumulator of every node that accumulates, by path.

        Convolutions and linear layers stay below 2**31, products of activations below 2**53.
        """
        kinds = IntegerLayer | GroupedConvolution | Product
        return {name: part.bound for name, part in self.named_modules() if isinstance(part, kinds)}


def _last_uses(steps: tuple[Step, ...], output: str) -> tuple[tuple[str, ...], ...]:
    """Return for each step the values that nobody reads after it."""
    seen, result = {output}, []
    for step in reversed(steps):
        sources = dict.fromkeys(step.sources())
        result.append(tuple(name for name in sources if name not in seen))
        seen.update(sources)
    return tuple(reversed(result))


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` at ``path``, with empty modules in between."""
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, module)
