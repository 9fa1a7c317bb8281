"""The integer model: a list of steps over named values, each exact, with its linear nodes as integer layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.models import load, save
from holdfast.models.programs import Programmed
from holdfast.shielding.graph.leaves import GroupedConvolution, Product
from holdfast.shielding.graph.operations import function
from holdfast.shielding.integer import IntegerLayer

Visit = Callable[["Step", tuple[Any, ...], Any], None]


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


class IntegerModel(Programmed):
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
        input_dtype: float32, or int64 for tokens.
    """

    kind: ClassVar[str] = "integer-graph"

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
        input_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.steps, self.input, self.output, self.input_dtype = steps, input, output, input_dtype
        self.input_shape, self.top_code = input_shape, top_code
        for path, module in modules.items():
            _place(self, path, module)
        self._constants = tuple(constants)
        for name, value in constants.items():
            if f"constant_{name}" in self._modules:
                raise InvalidConfig(f"the constant {name!r} and a node of the model have one name")
            self.register_buffer(f"constant_{name}", value)
        self._spent = _last_uses(steps, output)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (batch, *sample)."""
        return self.run(x)

    def run(self, x: Tensor, visit: Visit | None = None) -> Tensor:
        """Return the output for ``x`` (batch, *sample); ``visit`` sees each step with its arguments and its value."""
        values: dict[str, Any] = {name: self.get_buffer(f"constant_{name}") for name in self._constants}
        values[self.input] = x.float() if x.is_floating_point() else x
        with torch.no_grad():
            for step, spent in zip(self.steps, self._spent, strict=True):
                call = self.get_submodule(step.path) if step.target == "module" else function(step.target)
                keywords = {key: _bound(value, values) for key, value in step.keywords.items()}
                args = _bound(step.args, values)
                values[step.name] = call(*args, **keywords)
                if visit is not None:
                    visit(step, args, values[step.name])
                for name in spent:
                    del values[name]
        result: Tensor = values[self.output]
        return result

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens it knows, where inputs are tokens that it looks up in a table; else None."""
        for step in self.steps:
            if step.target == "aten.embedding.default" and step.args[1] == Ref(self.input):
                return len(self.get_buffer(f"constant_{step.args[0].name}"))
        return None

    def program(self) -> bytes:
        """Return everything but the tensors, and their digests, in canonical JSON: ``docs/formats/integer-model.md``.

        Raises:
            InvalidConfig: an argument that JSON cannot say; its step is named.
        """
        from holdfast.shielding.graph.stored import program_bytes  # which builds this class again

        return program_bytes(self)

    def save(self, folder: Path | str) -> None:
        """Write the model as an artifact of three files; see :func:`holdfast.save`."""
        save(self, folder)

    @classmethod
    def load(cls, folder: Path | str) -> IntegerModel:
        """Read what :meth:`save` wrote, prove its bounds again, and compute one sample of zeros through it.

        Raises:
            InvalidConfig: another kind of model.
            ArtifactError, DigestMismatch: a damaged or changed folder; see :func:`holdfast.models.load`.
        """
        found = load(folder)
        if not isinstance(found, cls):
            raise InvalidConfig(f"{folder} is no integer model", hint="make one with holdfast shield export")
        return found

    def bounds(self) -> dict[str, int]:
        """Return the proved largest accumulator of every node that accumulates, by path.

        Convolutions and linear layers stay below 2**31, products of activations below 2**53.
        """
        kinds = IntegerLayer | GroupedConvolution | Product
        return {name: part.bound for name, part in self.named_modules() if isinstance(part, kinds)}


# a submodule of the exported model may have such a name, which is taken here
RESERVED = frozenset(
    ("input", "input_dtype", "input_shape", "output", "steps", "top_code", "_constants", "_spent", *vars(IntegerModel))
)


def _last_uses(steps: tuple[Step, ...], output: str) -> tuple[tuple[str, ...], ...]:
    """Return for each step the values that nobody reads after it."""
    seen, result = {output}, []
    for step in reversed(steps):
        sources = dict.fromkeys(step.sources())
        result.append(tuple(name for name in sources if name not in seen))
        seen.update(sources)
    return tuple(reversed(result))


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` at ``path``, with empty modules in between.

    Raises:
        InvalidConfig: something else has a name of the path, or the path does not print on one line.
    """
    *parents, last = path.split(".")
    if not path.isprintable():
        raise InvalidConfig(f"no node of an integer model can be called {path[:60]!r}: it is no line of text")
    try:
        if isinstance(root, IntegerModel) and (parents or [last])[0] in RESERVED:
            raise KeyError(path)
        for name in parents:
            if name not in root._modules:
                root.add_module(name, nn.Module())
            root = root.get_submodule(name)
        root.add_module(last, module)
    except (KeyError, TypeError) as error:
        raise InvalidConfig(f"no node of an integer model can be called {path[:60]!r}: the name is taken") from error
