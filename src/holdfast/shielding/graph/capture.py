"""A model as a graph of operations, through ``torch.export``: what depends on the input, and what is constant."""

from __future__ import annotations

import copy
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from holdfast.errors import InvalidConfig
from holdfast.models.outputs import logits_of
from holdfast.shielding.graph.constant import fold_constants, require_determined
from holdfast.shielding.graph.faithful import require_every_batch, require_full_precision, require_same_again
from holdfast.shielding.graph.naming import TORCH

_HINT = "export wants no Python branch on tensor values; int8_model() shields such a model without a graph"
# what torch.export raises for models it cannot follow; its own errors are all RuntimeErrors
_REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


@dataclass(frozen=True, slots=True)
class Captured:
    """A traced model.

    Attributes:
        graph: functional ATen operations.
        constants: values of every node that does not depend on the input, by node name.
        parameters: node name -> path of the parameter or buffer.
        input: name of the node that holds the input.
        output: name of the node whose value the model returns.
        model: the float32 copy in evaluation mode that was traced.
    """

    graph: fx.GraphModule
    constants: Mapping[str, Any]
    parameters: Mapping[str, str]
    input: str
    output: str
    model: nn.Module

    def nodes(self) -> list[fx.Node]:
        """Return the nodes that depend on the input, in order, without the input and the output."""
        return [
            node for node in self.graph.graph.nodes if node.op == "call_function" and node.name not in self.constants
        ]

    def bind(self, x: Tensor) -> list[Any]:
        """Return the arguments of the graph for input ``x``."""
        names = [node.name for node in self.graph.graph.nodes if node.op == "placeholder"]
        return [x if name == self.input else self.constants[name] for name in names]


def capture(model: nn.Module, example: Tensor) -> Captured:
    """Trace ``model`` on ``example`` (batch, *sample), for any batch size.

    Raises:
        InvalidConfig: the model cannot be traced, or what was traced is not the model: it computes in half precision,
            draws random numbers, changes itself, or depends on the size of a batch. The message names the line of the
            model that stops it.
    """
    _require_example(model, example)
    model = copy.deepcopy(model).eval().float()
    example = example.float() if example.is_floating_point() else example
    program = _traced(model, torch.cat((example, example)) if len(example) == 1 else example)
    signature = program.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise InvalidConfig("an integer model has one input and one output", hint="wrap it in a module that does")
    _require_scores(model, example, program.call_spec.out_spec)
    if changed := sorted(set(signature.buffers_to_mutate.values())):
        raise InvalidConfig(
            f"forward changes the model's own buffer {changed[0]!r}, and an integer model stays as it is",
            hint="leave counters, caches and running averages out of forward",
        )
    parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values: dict[str, Any] = {name: _detached(_state(program, path)) for name, path in parameters.items()}
    values |= {name: program.constants[path] for name, path in signature.inputs_to_lifted_tensor_constants.items()}
    entry = signature.user_inputs[0]
    captured = Captured(program.graph_module, values, parameters, str(entry), str(signature.user_outputs[0]), model)
    require_every_batch(captured.graph.graph, captured.input)
    require_full_precision(captured.graph.graph)
    require_determined(captured.graph.graph)
    fold_constants(captured.graph.graph, values)
    _require_same_again(captured, example)
    return captured


def _require_same_again(captured: Captured, example: Tensor) -> None:
    try:
        require_same_again(
            lambda x: logits_of(captured.model(x)), lambda x: captured.graph(*captured.bind(x))[0], example
        )
    except _REFUSALS as error:
        raise InvalidConfig(
            f"the model does not take the example's first sample alone: {_first_line(error)}",
            hint="pass an example of the type and shape that the model takes, for a batch of any size",
        ) from error


def _require_scores(model: nn.Module, example: Tensor, returned: Any) -> None:
    """Refuse a structure whose one tensor is not known to be the scores."""
    if returned.is_leaf():
        return
    with torch.no_grad():
        scores = logits_of(model(example))
    if not isinstance(scores, Tensor):
        kind = getattr(returned.type, "__name__", "structure")
        raise InvalidConfig(f"the model returns a {kind}, not one tensor", hint="wrap it in a module that does")


def _require_example(model: object, example: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidConfig(
            f"a {type(model).__name__} is no torch.nn.Module", hint="export(model, example, calibration)"
        )
    if not isinstance(example, Tensor) or not example.dim() or not len(example) or example.is_complex():
        found = f"{example.dtype} {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise InvalidConfig(
            f"the example is {found}, not a batch (batch, *sample) of at least one",
            hint="pass a tensor of real numbers or of tokens, such as x[:1]",
        )


def _state(program: Any, path: str) -> Tensor:
    found: Tensor = program.state_dict[path] if path in program.state_dict else program.constants[path]
    return found


def _detached(value: Tensor) -> Tensor:
    return value.detach().clone()


def _traced(model: nn.Module, example: Tensor) -> Any:
    try:
        with torch.no_grad(), _quietly():
            free = ({0: torch.export.Dim.AUTO},)
            return torch.export.export(model, (example,), dynamic_shapes=free, strict=False).run_decompositions({})
    except _REFUSALS as error:
        raise InvalidConfig(f"torch.export stops {_place(error)}: {_first_line(error)}", hint=_HINT) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to ourselves what torch.export writes about a model that it cannot follow: its whole graph."""
    said, logger = io.StringIO(), logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
        sys.stderr.write(said.getvalue())  # of a model that went through: its own words
    finally:
        logger.setLevel(level)


def _place(error: BaseException) -> str:
    """Name the innermost line of the model's own code in a traceback."""
    ours = (TORCH, str(Path(__file__).parents[2]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if not frames:
        return "before it reaches the model"
    return f"in {frames[-1].name} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
