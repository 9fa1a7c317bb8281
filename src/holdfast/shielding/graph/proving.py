"""What an integer model must keep to before it is believed: sane scales, and samples that compute, each for itself."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.graph.budget import Budget
from holdfast.shielding.graph.exact import SOFTMAX_REACH
from holdfast.shielding.graph.leaves import SOFTMAX_TABLE, Product
from holdfast.shielding.graph.operations import ARITHMETIC, MOVES, WHOLE
from holdfast.shielding.graph.program import IntegerModel, Step
from holdfast.shielding.graph.separate import SIZES, first_mixing
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.kernels import kernel

_SOFTMAX_ONE = 2**30
# what torch and Python raise where shapes or types do not fit
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, LookupError, ArithmeticError, AttributeError, MemoryError,
            AssertionError)  # fmt: skip


def prove(model: IntegerModel) -> None:
    """Require numbers that make sense, and compute one sample of zeros, looking at every step.

    Raises:
        UnreadableArtifact: a scale that is none, a table that is no table of weights, or a step that does not compute
            takes other shapes than it states, or costs more than a model of its size has use for; it is named.
    """
    weights = sum(value.numel() for value in model.state_dict().values())
    budget = Budget(weights)
    if (size := math.prod(model.input_shape)) > budget.most:
        raise UnreadableArtifact(f"the input {model.input!r} has {size} elements a sample, more than {budget.most}")
    for name, value in model.state_dict().items():
        _require_sense(name, value)
    if SOFTMAX_TABLE in model._constants:
        _require_table(model.get_buffer(f"constant_{SOFTMAX_TABLE}"))
    done: list[str] = []

    def visit(step: Step, args: tuple[Any, ...], value: Any) -> None:
        _require_stated(model, step, args, value)
        budget.keep(step.name, value, model._spent[len(done)])
        done.append(step.name)

    kernel("cpu")  # is chosen and tested at its first use, which is not this model's to pay for
    try:
        with budget:
            output: Any = model.run(torch.zeros(1, *model.input_shape, dtype=model.input_dtype), visit)
    except (*_MISFITS, InvalidConfig) as error:
        where = f"step {model.steps[len(done)].name!r}" if len(done) < len(model.steps) else "the output"
        raise UnreadableArtifact(f"{where} does not compute: {_first_line(error)}") from error
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != 1:
        raise UnreadableArtifact("the output is not one tensor with one row for each sample")
    _require_separate(model, weights)


def _require_separate(model: IntegerModel, weights: int) -> None:
    try:
        mixing = first_mixing(model, budget=Budget(weights, samples=sum(SIZES) + max(SIZES)))
    except (*_MISFITS, InvalidConfig) as error:
        raise UnreadableArtifact(f"several samples do not compute together: {_first_line(error)}") from error
    if mixing is not None:
        raise UnreadableArtifact(f"step {mixing!r} mixes the samples of a batch")


def _require_sense(name: str, value: Tensor) -> None:
    """Refuse NaN and infinities, except that minus infinity masks; and scales that are not above zero."""
    if not value.is_floating_point():
        return
    masks = name.startswith("constant_")
    if value.isnan().any() or (value == torch.inf).any() or (not masks and value.isinf().any()):
        raise UnreadableArtifact(f"{name} holds NaN or infinite values")
    if not masks and name.endswith("scale") and not (value > 0).all():
        raise UnreadableArtifact(f"{name} is a scale and not above zero")


def _require_table(table: Tensor) -> None:
    """Require whole weights so small that their sum is exact, from one down to none."""
    whole = (
        table.dtype == torch.float64 and tuple(table.shape) == (SOFTMAX_REACH,) and bool((table == table.round()).all())
    )
    if not whole or table[0] != _SOFTMAX_ONE or table[-1] != 0 or bool((table.diff() > 0).any()):
        raise UnreadableArtifact("the table of softmax is none")


def _require_stated(model: IntegerModel, step: Step, args: tuple[Any, ...], value: Any) -> None:
    part = model.get_submodule(step.path) if step.target == "module" else None
    if isinstance(part, IntegerLayer) and tuple(args[0].shape[1:]) != part.sample_shape:
        raise UnreadableArtifact(
            f"node {step.path!r} states samples of {part.sample_shape} and gets {tuple(args[0].shape[1:])}"
        )
    if isinstance(part, Product) and args[0].shape[-1] != part.inner:
        raise UnreadableArtifact(f"node {step.path!r} states {part.inner} products and sums {args[0].shape[-1]}")
    word = step.target.split(".")[1] if step.target.startswith("aten.") else ""
    if word in WHOLE - MOVES - ARITHMETIC and any(_floats(part) for part in (*args, value)):
        raise UnreadableArtifact(f"step {step.name!r} ({step.target}) is exact over whole numbers only")


def _floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_floats(part) for part in value)
    return isinstance(value, Tensor) and value.is_floating_point()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
