"""A model as a graph of operations, through ``torch.export``: what depends on the input, and what is constant."""

from __future__ import annotations

import copy
import io
import logging
import re
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

_HINT = "export wants no Python branch on tensor values; int8_model() shields such a model without a graph"
_TORCH = str(Path(torch.__file__).parent)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
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
        InvalidConfig: the model cannot be traced, or computes in half precision; the message names the line of the
            model that stops it.
    """
    model = copy.deepcopy(model).eval().float()
    example = example.float() if example.is_floating_point() else example
    program = _traced(model, torch.cat((example, example)) if len(example) == 1 else example)
    signature = program.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise InvalidConfig("an integer model has one input and one output", hint="wrap it in a module that does")
    if not program.call_spec.out_spec.is_leaf():
        kind = getattr(program.call_spec.out_spec.type, "__name__", "structure")
        raise InvalidConfig(f"the model returns a {kind}, not one tensor", hint="wrap it in a module that does")
    parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    values: dict[str, Any] = {name: _detached(_state(program, path)) for name, path in parameters.items()}
    values |= {name: program.constants[path] for name, path in signature.inputs_to_lifted_tensor_constants.items()}
    entry = signature.user_inputs[0]
    captured = Captured(program.graph_module, values, parameters, str(entry), str(signature.user_outputs[0]), model)
    _require_free_batch(captured)
    _require_full_precision(captured)
    _fold_constants(captured.graph.graph, values)
    return captured


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
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InvalidConfig(f"torch.export stops {_place(error)}: {first.strip()}", hint=_HINT) from error


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
    ours = (_TORCH, str(Path(__file__).parents[2]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if not frames:
        return "before it reaches the model"
    return f"in {frames[-1].name} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _require_free_batch(captured: Captured) -> None:
    entry = next(node for node in captured.graph.graph.nodes if node.name == captured.input)
    size = str(entry.meta["val"].shape[0])  # a free size is a symbol with a name
    if size.isdigit():
        raise InvalidConfig(
            f"the model only takes batches of {size}",
            hint="something in forward fixes the size of dimension 0, such as a view with a number in its place",
        )


def _require_full_precision(captured: Captured) -> None:
    """Refuse what computes in fewer bits: weights are float32 here, and torch multiplies no float32 by float16."""
    for node in captured.graph.graph.nodes:
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if node.op == "call_function" and dtype in (torch.float16, torch.bfloat16):
            raise InvalidConfig(
                f"{describe(node)} computes in {str(dtype).removeprefix('torch.')}, and integer models in float32",
                hint="leave conversions such as x.half() out of forward, and export model.float()",
            )


def _fold_constants(graph: fx.Graph, values: dict[str, Any]) -> None:
    """Compute every node that depends on constants only."""
    for node in graph.nodes:
        if node.op != "call_function" or any(source.name not in values for source in node.all_input_nodes):
            continue
        args, keywords = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source.name])
        with torch.no_grad():
            values[node.name] = node.target(*args, **keywords)


def describe(node: fx.Node) -> str:
    """Name a node for a message: its operation, its module, and the line of the model that made it."""
    module = module_path(node)
    place = _source_line(node.meta.get("stack_trace") or "")
    where = f"module {module!r}" if module else "the model itself"
    return f"node {node.name!r} ({node.target}) in {where}{place}"


def _source_line(trace: str) -> str:
    """Return the innermost line of a node's stack trace that is not torch's own, as text."""
    found = [match for match in _FRAME.finditer(trace) if not match["file"].startswith(_TORCH)]
    return f" ({Path(found[-1]['file']).name}:{found[-1]['line']})" if found else ""


def module_path(node: fx.Node) -> str:
    """Return the path of the module whose forward made the node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""
