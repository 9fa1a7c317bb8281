"""The computation of one forward pass as a graph: which named places were computed from which.

Nothing is traced symbolically: the model runs once, and every leaf module and every torch function that another
module's forward calls becomes a node whose parents are the nodes that made its operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.models.guard import without_guards
from holdfast.models.subject import evaluating
from holdfast.models.tap import Watch, is_float, operation_name


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the pass.

    Attributes:
        number: position in the order of computation; the model's input is 0.
        site: name of the place, numbered as taps number it.
        operation: what a torch function is called (``add``), or the class of a leaf module.
        module: the leaf module, None for a function.
        parents: nodes that made its operands, in the order of the operands.
        operands: numbers of the nodes that made the positional tensor operands; None for parameters and constants.
        trained: whether it computes with parameters.
        written: number of the node that wrote the values of its output: itself, unless it passes them on or views them.
        shape: of the output, with the batch.
        floats: whether the output is a float tensor.
    """

    number: int
    site: str
    operation: str
    module: nn.Module | None
    parents: tuple[int, ...]
    operands: tuple[int | None, ...]
    trained: bool
    written: int
    shape: tuple[int, ...]
    floats: bool


@dataclass(frozen=True)
class Computation:
    """All nodes of one pass, in order, and the nodes that made the model's output."""

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    def ancestors(self, number: int) -> frozenset[int]:
        """Return the numbers of ``number`` and all it was computed from."""
        seen, ahead = {number}, [number]
        while ahead:
            fresh = set(self.nodes[ahead.pop()].parents) - seen
            seen |= fresh
            ahead.extend(fresh)
        return frozenset(seen)

    def writer(self, number: int) -> Node:
        """Return the node that wrote the values that node ``number`` hands on."""
        return self.nodes[self.nodes[number].written]


def capture(model: nn.Module, example: Tensor, *, batch: int = 2) -> Computation:
    """Run ``model`` once, in evaluation mode and without its guards, and return what it computed.

    Args:
        model: unchanged.
        example: one input sample, without batch dimension.
        batch: number of copies of it that run.

    Raises:
        InvalidConfig: the output holds no float tensor.
    """
    inputs = example.unsqueeze(0).repeat(batch, *[1] * example.dim())
    with torch.inference_mode(False), torch.no_grad(), evaluating(model), without_guards(model):
        recorder = _Recorder(model, inputs)
        with recorder:
            output = model(inputs)
    made = [recorder.maker[id(item)] for item in tensors_in(output) if is_float(item) and id(item) in recorder.maker]
    if not made:
        raise InvalidConfig("the model's output is no float tensor that it computed", hint="return the logits")
    return Computation(tuple(recorder.nodes), tuple(made))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside nested tuples, lists, mappings and dataclasses of results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (tensor for item in value.values() for tensor in tensors_in(item))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        yield from (tensor for item in value for tensor in tensors_in(item))


class _Recorder(Watch):
    """Keeps every tensor of the pass alive, so that an ``id`` names one tensor."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        super().__init__(model, lambda _, value: value)
        self.nodes = [Node(0, "", "input", None, (), (), False, 0, tuple(inputs.shape), inputs.is_floating_point())]
        self.maker = {id(inputs): 0}
        self._writers = {_state(inputs): 0}
        self._kept: list[Any] = [inputs]
        self._names: dict[str, int] = {}

    def __enter__(self) -> _Recorder:
        super().__enter__()
        # after the hooks of the model itself: one that casts or moves the input makes the tensor that forward gets
        self._handles.append(self._model.register_forward_pre_hook(self._given, with_kwargs=True))
        return self

    def _given(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Count what forward gets as the input."""
        for item in tensors_in((*args, *kwargs.values())):
            self._kept.append(item)
            self.maker.setdefault(id(item), 0)
            self._writers.setdefault(_state(item), 0)

    def see(self, place: str, call: Callable[..., Any], args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Add a node for each tensor of ``output``."""
        found = list(tensors_in(output)) if isinstance(output, tuple | list) else [output]
        if any(isinstance(item, Tensor) for item in found):
            names = self._numbered_names(place, output, found)
            operands = list(tensors_in((*args, *kwargs.values())))
            for name, item in zip(names, found, strict=True):
                if isinstance(item, Tensor):
                    self._add(name, call, operands, item)
            self._kept += [operands, found]
        return output

    def _numbered_names(self, place: str, output: Any, found: list[Any]) -> list[str]:
        """Number as taps do: only calls that give floats count."""
        if not any(map(is_float, found)):
            return [place] * len(found)
        call = self._names.get(place, 0)
        self._names[place] = call + 1
        if isinstance(output, tuple | list):
            return [f"{place}#{call}.{i}" for i in range(len(found))]
        return [f"{place}#{call}" if call else place]

    def _add(self, name: str, call: Callable[..., Any], operands: Iterable[Tensor], output: Tensor) -> None:
        module = call if isinstance(call, nn.Module) else None
        made = tuple(self.maker.get(id(item)) for item in operands)
        own = () if module is None else tuple(module.parameters())
        number, state = len(self.nodes), _state(output)
        node = Node(
            number=number,
            site=name,
            operation=operation_name(call) if module is None else type(module).__name__,
            module=module,
            parents=tuple(dict.fromkeys(item for item in made if item is not None)),
            operands=made,
            trained=bool(own) or any(isinstance(item, nn.Parameter) for item in operands),
            written=self._writers.setdefault(state, number),
            shape=tuple(output.shape),
            floats=output.is_floating_point(),
        )
        self.nodes.append(node)
        self.maker[id(output)] = number


def _state(tensor: Tensor) -> tuple[int, int]:
    """Return which storage at which version: what an operation in place wrote is new, what a view shows is not."""
    return tensor.untyped_storage().data_ptr(), tensor._version
