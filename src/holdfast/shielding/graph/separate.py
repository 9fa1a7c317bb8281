"""Whether a graph computes each sample of a batch for itself: its bits alone and among others are the same.

Gateways compute inputs of several clients together, and no one of them may see a trace of another. Operations that
always mix samples (a roll or a softmax over the batch, a maximum over everything, a product of a batch with itself)
show in random samples with certainty, for all practical purposes; one that mixes them only for inputs chosen by whoever
wrote the graph does not. So this says something about honest models, and a graph needs a signature like any program.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from holdfast.seeds import derive
from holdfast.shielding.graph.program import IntegerModel, Step

_SAMPLES = 3
_TOKENS = 2  # of a graph that takes whole numbers and has no table of tokens
_SPREAD = (0.1, 1.0, 4.0)  # of the samples: one saturates codes, one hardly moves them


def first_mixing(model: IntegerModel) -> str | None:
    """Return the first step whose values of a sample depend on the others of its batch, or None.

    Samples are computed alone, three together, and two of them in the other order.
    """
    samples = _samples(model)
    alone = [model(one) for one in samples.split(1)]
    for order in ([0, 1, 2], [2, 0]):
        together: Any = model(samples[order])
        wanted = torch.cat([alone[place] for place in order])
        if together.shape != wanted.shape or not torch.equal(together, wanted):
            return _named(model, samples[order])
    return None


def _samples(model: IntegerModel) -> Tensor:
    generator = derive(0, "separate samples").torch()
    shape = (_SAMPLES, *model.input_shape)
    if not model.input_dtype.is_floating_point:
        return torch.randint(0, model.vocabulary or _TOKENS, shape, generator=generator)
    spread = torch.tensor(_SPREAD).view(-1, *[1] * len(model.input_shape))
    return torch.randn(shape, generator=generator) * spread


def _named(model: IntegerModel, samples: Tensor) -> str:
    """Return the first step with a row for each sample in which a row is not that of the sample alone."""
    together, alone = _values(model, samples), [_values(model, one) for one in samples.split(1)]
    for name, value in together.items():
        if value.dim() == 0 or len(value) != len(samples):
            continue
        rows = [values[name] for values in alone]
        if any(len(row) != 1 or not torch.equal(row[0], value[place]) for place, row in enumerate(rows)):
            return name
    return model.output


def _values(model: IntegerModel, samples: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def visit(step: Step, args: tuple[Any, ...], value: Any) -> None:
        if isinstance(value, Tensor):
            found[step.name] = value.clone()

    model.run(samples, visit)
    return found
