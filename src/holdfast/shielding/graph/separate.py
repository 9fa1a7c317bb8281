"""Whether a graph computes each sample of a batch for itself: its bits alone and among others are the same.

Gateways compute inputs of several clients together, and no one of them may see a trace of another. So the graph is
followed element by element, for two sizes of batch: no row of its output may depend on another sample, whatever the
numbers are (:mod:`~holdfast.shielding.graph.influence`). Random samples are computed alone and together as well, which
says the same of the functions that compute. A graph that treats one size of batch unlike the others is the work of
whoever wrote it: it needs a signature like any program, and a gateway looks at its own size before it serves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive
from holdfast.shielding.graph.budget import Budget
from holdfast.shielding.graph.colours import COLOURS, blank, coloured, is_apart, is_mixed
from holdfast.shielding.graph.influence import Influence
from holdfast.shielding.graph.program import IntegerModel, Step, _bound
from holdfast.shielding.integer import IntegerLayer

SIZES = (3, 2)
_EVERY = 8  # sizes up to which a gateway has every one looked at
_TOKENS = 2  # of a graph that takes whole numbers and has no table of tokens
_SPREAD = (0.1, 1.0, 4.0)  # of the samples: one saturates codes, one hardly moves them


def first_mixing(model: IntegerModel, sizes: Sequence[int] = SIZES, *, budget: Budget | None = None) -> str | None:
    """Return the first step whose values of a sample depend on the others of its batch, or None.

    Args:
        sizes: of the batches that are looked at, 2 .. 70.
        budget: what all computing is done within.
    """
    samples = _samples(model, max(sizes))
    with budget or contextlib.nullcontext():
        alone = [model(one) for one in samples.split(1)]
        for size in sizes:
            traced = _Traced(model, samples[:size], budget)
            wanted = torch.cat(alone[:size])
            if (mixing := traced.mixing()) is not None or not _same(traced.output, wanted):
                return mixing or model.output
    return None


def require_apart(model: nn.Module, largest: int) -> None:
    """Require that batches of up to ``largest`` samples, in which several clients meet, keep them apart.

    Batches of 2 to 8 are looked at, and the two largest; none larger than 70, for which there are no colours.

    Raises:
        InvalidConfig: a step mixes samples, or the model is no graph that can be followed.
    """
    if largest < 2:
        return
    if not isinstance(model, IntegerModel):
        hint = "export it (holdfast shield export), or compute each request for itself (batch 1)"
        raise InvalidConfig("nothing shows that this model keeps the samples of a batch apart", hint=hint)
    top = min(largest, len(COLOURS))
    sizes = sorted({*range(2, min(top, _EVERY) + 1), max(top - 1, 2), top}, reverse=True)
    if (mixing := first_mixing(model, sizes)) is not None:
        hint = "compute each request for itself (batch 1)"
        raise InvalidConfig(f"step {mixing!r} mixes the samples of batches of up to {largest}", hint=hint)


class _Traced:
    """A batch on its way through the graph, with the colours of every value that is still to be read."""

    def __init__(self, model: IntegerModel, samples: Tensor, budget: Budget | None) -> None:
        self._model, self._budget, self._batch, self._done = model, budget, len(samples), 0
        self._influence = Influence(model.get_submodule)
        constants = {name: model.get_buffer(f"constant_{name}") for name in model._constants}
        self._colours = {name: blank(value) for name, value in constants.items()}
        self._colours[model.input] = coloured(samples)
        self._suspect: str | None = None
        self.output: Any = model.run(samples, self._visit)

    def _visit(self, step: Step, real: tuple[Any, ...], value: Any) -> None:
        spent = self._model._spent[self._done]
        if self._budget is not None:
            self._budget.keep(step.name, value, spent)
        with _disable_current_modes():
            args = _bound(step.args, self._colours)
            keywords = {key: _bound(part, self._colours) for key, part in step.keywords.items()}
            found = self._influence.after(step, real, args, keywords, value)
            if self._suspect is None and isinstance(found, Tensor) and not self._clear(found):
                self._suspect = step.name
        self._colours[step.name] = found
        for name in spent:
            del self._colours[name]
        self._done += 1

    def _clear(self, colours: Tensor) -> bool:
        if colours.dim() and len(colours) == self._batch:
            return is_apart(colours, self._batch)
        return not is_mixed(colours)

    def mixing(self) -> str | None:
        """Return the step that is to blame if a row of the output may depend on another sample; else None."""
        if self._influence.lost is not None:
            return self._influence.lost
        colours = self._colours[self._model.output]
        shaped = isinstance(colours, Tensor) and colours.dim() and len(colours) == self._batch
        return None if shaped and is_apart(colours, self._batch) else self._suspect or self._model.output


def _samples(model: IntegerModel, count: int) -> Tensor:
    generator = derive(0, "separate samples").torch()
    shape = (count, *model.input_shape)
    if not model.input_dtype.is_floating_point:
        return torch.randint(0, model.vocabulary or _TOKENS, shape, generator=generator)
    spread = torch.tensor(_SPREAD).repeat(-(-count // len(_SPREAD)))[:count] * _reach(model)
    return torch.randn(shape, generator=generator) * spread.view(-1, *[1] * len(model.input_shape))


def _reach(model: IntegerModel) -> float:
    """Return a quarter of the largest input of the first integer layer, which usually reads what comes in."""
    first = next((part for part in model.modules() if isinstance(part, IntegerLayer)), None)
    return 1.0 if first is None else float(first.activation_scale) * first.top_code / max(_SPREAD)


def _same(one: Any, other: Tensor) -> bool:
    """Say whether two results are the same to the bit, where NaN is NaN."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
