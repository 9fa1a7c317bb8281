"""Whether what was traced is the model: for batches of every size, a second time, and in the precision it had.

``torch.export`` follows one call, and what Python decides in it is decided for ever. The sizes of batch for which that
holds are noted as guards, except that every batch is taken for one of two or more; and what comes from a clock or from
Python's own random numbers is not seen at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph.naming import describe

_CLOSE = 1e-3  # relative; both are the same float32 operations
_SIZE = "something in forward depends on the size of dimension 0: "


def require_every_batch(graph: fx.Graph, entry: str) -> None:
    """Refuse a graph that stands for the model at some sizes of batch only.

    Raises:
        InvalidConfig: it does.
    """
    size = next(node for node in graph.nodes if node.name == entry).meta["val"].shape[0]
    if str(size).isdigit():  # a free size is a symbol with a name
        hint = "forward fixes the size of dimension 0: a view with a number in its place, len(x), or a branch"
        raise InvalidConfig(f"the model only takes batches of {size}", hint=hint)
    guards = [str(guard.expr) for guard in size.node.shape_env.guards]
    if guards:
        condition = guards[0].replace(str(size), "batch")
        raise InvalidConfig(
            f"the model was traced for batches with {condition} only",
            hint=f"{_SIZE}leave branches on x.shape[0] out of forward",
        )


def require_full_precision(graph: fx.Graph) -> None:
    """Refuse what computes in fewer bits: weights are float32 here, and torch multiplies no float32 by float16.

    Raises:
        InvalidConfig: a node does; it is named.
    """
    for node in graph.nodes:
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if node.op == "call_function" and dtype in (torch.float16, torch.bfloat16):
            raise InvalidConfig(
                f"{describe(node)} computes in {str(dtype).removeprefix('torch.')}, and integer models in float32",
                hint="leave conversions such as x.half() out of forward, and export model.float()",
            )


def require_same_again(model: Callable[[Tensor], Any], graph: Callable[[Tensor], Tensor], example: Tensor) -> None:
    """Refuse a graph that computes something else than the model does when it is called again, with one sample.

    Args:
        model: in evaluation mode; returns its output.
        graph: what was traced of it.
        example: (batch, *sample).

    Raises:
        InvalidConfig: it does.
    """
    for one in _samples(example):
        with torch.no_grad():
            if not _alike(graph(one), model(one)):
                raise InvalidConfig(
                    "the model, called with one sample, computes something else than what was traced of it",
                    hint=f"{_SIZE}a branch on one; or on a clock, or on random numbers of Python",
                )


def _samples(example: Tensor) -> Iterator[Tensor]:
    """Yield the first sample, and, of numbers, one in which no two are the same."""
    yield example[:1]
    if example.is_floating_point():
        yield torch.linspace(-1, 1, example[:1].numel()).reshape(example[:1].shape).to(example)


def _alike(found: Tensor, expected: Tensor) -> bool:
    found, expected = found.double().flatten(), expected.double().flatten()
    if found.shape != expected.shape:
        return False
    finite = expected.isfinite() & found.isfinite()
    rest = torch.equal(found[~finite].nan_to_num(), expected[~finite].nan_to_num())
    return rest and bool((found - expected)[finite].norm() <= _CLOSE * expected[finite].norm() + 1e-6)
