"""Integer models as a program in canonical JSON beside their tensors: ``docs/formats/integer-model.md``.

Nothing is believed on the way in: the program is bound by its digest, the tensors by theirs in the program, operations
come from a list, every name is defined before it is read, accumulator bounds are proved again from the weights, and
one sample of zeros has to compute through all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.models.programs import programs
from holdfast.models.tensors import stored_tensors, tensor_digest
from holdfast.shielding.graph.arguments import read, require_name, require_text, written
from holdfast.shielding.graph.leaves import SOFTMAX_TABLE
from holdfast.shielding.graph.nodes import build_module, describe_module
from holdfast.shielding.graph.operations import function, require_words
from holdfast.shielding.graph.program import IntegerModel, Step
from holdfast.shielding.graph.proving import prove
from holdfast.shielding.integer import require_top_code

FORMAT = "holdfast.integer-program/v1"
_KEYS = frozenset(
    ("type", "input", "input_dtype", "input_shape", "output", "top_code", "constants", "modules", "steps", "tensors")
)
_STEP = frozenset(Step.__dataclass_fields__)
_DTYPES = {"float32": torch.float32, "int64": torch.int64}
_MOST_STEPS, _MOST_SIDES, _MOST = 100_000, 8, 2**40


def program_bytes(model: IntegerModel) -> bytes:
    """Return everything about ``model`` but its tensors, and their digests, in canonical JSON.

    Raises:
        InvalidConfig: a step or module that has no form in JSON; it is named.
    """
    constants = [name.removeprefix("constant_") for name in model._buffers]
    paths = sorted({step.path for step in model.steps if step.target == "module"})
    return canonical.dumps(
        {
            "type": FORMAT,
            "input": model.input,
            "input_dtype": str(model.input_dtype).removeprefix("torch."),
            "input_shape": list(model.input_shape),
            "output": model.output,
            "top_code": model.top_code,
            "constants": sorted(constants),
            "modules": {path: describe_module(model.get_submodule(path)) for path in paths},
            "steps": [_written_step(step) for step in model.steps],
            "tensors": {name: _described(name, value) for name, value in stored_tensors(model).items()},
        }
    )


def _written_step(step: Step) -> dict[str, Any]:
    try:
        if step.target != "module":
            function(step.target)
        args, keywords = written(list(step.args)), {key: written(value) for key, value in step.keywords.items()}
    except InvalidConfig as error:
        raise InvalidConfig(f"step {step.name!r} ({step.target}) cannot be written down: {error}") from error
    return {
        "name": step.name,
        "target": step.target,
        "path": step.path,
        "operation": step.operation,
        "args": args,
        "keywords": keywords,
        "elements": step.elements,
        "moves": step.moves,
    }


def _described(name: str, value: Tensor) -> dict[str, Any]:
    dtype = str(value.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(value.shape), "blake3": tensor_digest(name, value)}


@programs.register(IntegerModel.kind)
def build(data: bytes, tensors: Mapping[str, Tensor], what: str) -> nn.Module:
    """Return the integer model of a program and its tensors; ``what`` names the program's file.

    Raises:
        DigestMismatch: another tensor than the program names.
        UnreadableArtifact, UnsupportedVersion: a malformed program, an unknown operation, a bound that the weights do
            not keep, or shapes that do not fit; the node is named.
    """
    value = canonical.loads(data, what=what)
    try:
        _require_form(value, what)
        _require_tensors(value["tensors"], tensors)
        model = _assembled(value, tensors)
        _fill(model, tensors)
        prove(model)
    except InvalidConfig as error:
        raise UnreadableArtifact(f"{what}: {error}", hint=error.hint) from error
    except (UnreadableArtifact, DigestMismatch) as error:
        raise type(error)(f"{what}: {error}", hint=error.hint) from error
    return model


def _require_form(value: Any, what: str) -> None:
    if not isinstance(value, dict) or value.get("type") != FORMAT:
        raise UnsupportedVersion(f"{what} is no {FORMAT}")
    if odd := sorted(value.keys() ^ _KEYS):
        raise UnreadableArtifact(f"{odd[0]!r} is {'unknown' if odd[0] in value else 'missing'}")
    lists = isinstance(value["steps"], list) and isinstance(value["constants"], list)
    if not lists or not isinstance(value["modules"], dict) or not isinstance(value["tensors"], dict):
        raise UnreadableArtifact("steps and constants are lists, modules and tensors objects")
    if len(value["steps"]) > _MOST_STEPS:
        raise UnreadableArtifact(f"{len(value['steps'])} steps are more than {_MOST_STEPS}")


def _require_tensors(stated: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Hold the tensors of the file against the list: names first, then shapes, then bytes."""
    if missing := sorted(stated.keys() - tensors.keys()):
        raise UnreadableArtifact(f"the tensor {missing[0]!r} is missing from model.safetensors")
    if extra := sorted(tensors.keys() - stated.keys()):
        raise UnreadableArtifact(f"model.safetensors holds {extra[0]!r}, which the program does not name")
    for name, tensor in tensors.items():
        if stated[name] != _described(name, tensor):
            raise DigestMismatch(
                f"the tensor {name!r} is not the one that was exported",
                hint="the folder is damaged or was changed: export again, or restore a copy",
            )


def _assembled(value: dict[str, Any], tensors: Mapping[str, Tensor]) -> IntegerModel:
    """Build the model without its values; every reference is to something that is there by then."""
    constants = {require_name(name, "a constant"): tensors.get(f"constant_{name}") for name in value["constants"]}
    if absent := [name for name, tensor in constants.items() if tensor is None]:
        raise UnreadableArtifact(f"the constant {absent[0]!r} has no tensor")
    held = {name: torch.empty_like(tensor) for name, tensor in constants.items() if tensor is not None}
    table = held.get(SOFTMAX_TABLE)
    modules = {
        path: build_module(_require_path(path), described, tensors, table)
        for path, described in value["modules"].items()
    }
    entry, top = require_name(value["input"], "the input"), require_top_code(value["top_code"])
    if wide := [path for path, described in value["modules"].items() if described.get("top_code", top) != top]:
        raise UnreadableArtifact(f"node {wide[0]!r} has another top code than the model")
    steps = _steps(value["steps"], {entry, *held}, modules)
    if value["output"] not in {step.name for step in steps} or value["input_dtype"] not in _DTYPES:
        raise UnreadableArtifact("the output is no step, or the input neither float32 nor int64")
    return IntegerModel(
        steps,
        modules,
        held,
        input=entry,
        output=value["output"],
        input_shape=_shape(value["input_shape"]),
        top_code=top,
        input_dtype=_DTYPES[value["input_dtype"]],
    )


def _require_path(path: str) -> str:
    if not all(require_text(path, "the path of a node").split(".")):
        raise UnreadableArtifact(f"a node is called {path[:40]!r}")
    return path


def _steps(found: list[Any], known: set[str], modules: Mapping[str, nn.Module]) -> tuple[Step, ...]:
    steps, used = [], set()
    for item in found:
        step = _step(item)
        if step.name in known:
            raise UnreadableArtifact(f"two values are called {step.name!r}")
        if unknown := [name for name in step.sources() if name not in known]:
            raise UnreadableArtifact(f"step {step.name!r} reads {unknown[0]!r} before it is computed")
        if (step.target == "module") != (step.path in modules):
            raise UnreadableArtifact(f"step {step.name!r} names no module that there is")
        if step.target != "module":
            _require_words(step)
        known.add(step.name)
        used.add(step.path)
        steps.append(step)
    if idle := sorted(modules.keys() - used):
        raise UnreadableArtifact(f"no step computes node {idle[0]!r}")
    return tuple(steps)


def _require_words(step: Step) -> None:
    try:
        require_words(step.target, step.args, step.keywords)
    except InvalidConfig as error:
        raise UnreadableArtifact(f"step {step.name!r}: {error}") from error


def _step(item: Any) -> Step:
    if not isinstance(item, dict) or item.keys() != _STEP:
        raise UnreadableArtifact("a step has other fields")
    name = require_name(item["name"], "a step")
    for key in ("target", "path", "operation"):
        require_text(item[key], f"{key} of step {name!r}")
    sizes = type(item["elements"]) is int and 0 <= item["elements"] < _MOST and isinstance(item["moves"], bool)
    if not sizes or not isinstance(item["args"], list) or not isinstance(item["keywords"], dict):
        raise UnreadableArtifact(f"step {name!r} is malformed")
    keywords = {require_name(key, "a keyword"): read(inner) for key, inner in item["keywords"].items()}
    return Step(**{**item, "args": tuple(read(item["args"])), "keywords": keywords})


def _shape(value: Any) -> tuple[int, ...]:
    good = isinstance(value, list) and 1 <= len(value) <= _MOST_SIDES
    if not good or not all(type(side) is int and 1 <= side < _MOST for side in value):
        raise UnreadableArtifact(f"the input has shape {str(value)[:40]}")
    return tuple(value)


def _fill(model: IntegerModel, tensors: Mapping[str, Tensor]) -> None:
    """Put the values in, now that names, shapes and types are those of the program's own structure."""
    wanted = model.state_dict(keep_vars=True)
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        raise UnreadableArtifact(
            f"no node has the tensor {odd[0]!r}" if odd[0] in tensors else f"{odd[0]!r} is missing"
        )
    with torch.no_grad():
        for name, target in wanted.items():
            given = tensors[name]
            if given.shape != target.shape or given.dtype != target.dtype:
                raise UnreadableArtifact(f"{name} is {given.dtype} of {list(given.shape)}, not as its node wants it")
            target.copy_(given)
