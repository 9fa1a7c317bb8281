"""Whether a model takes what a dataset holds, asked once and without faults, before anything is measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.memory import is_out_of_memory, too_small
from holdfast.execution.run import evaluating
from holdfast.models import card
from holdfast.models.outputs import logits_of

_REASON = 200  # characters of torch's own words


def require_fit(model: nn.Module, data: Dataset, *, labels: bool = True) -> None:
    """Run ``model`` on the first sample of ``data``, unless its card already says that the shapes differ.

    What fails later, or under faults, is no misfit: call this on the model as it is, before faults are in it.

    Args:
        model: as it is.
        data: images.
        labels: whether outputs are scores of the classes that the labels count.

    Raises:
        InvalidConfig: another shape than the model was made for, an error in the forward pass, or labels that the
            model has no output for.
        TrialError: one sample does not fit in memory.
    """
    sample = data.example
    known = card(model).input_shape
    if known is not None and tuple(known) != tuple(sample.shape):
        raise _misfit(sample, f"it was made for {_size(known)}", tokens=len(known) == 1)
    try:
        with torch.no_grad(), evaluating(model):
            output = logits_of(model(sample[None]))
    except (RuntimeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise too_small() from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise _misfit(sample, reason[:_REASON]) from error
    if labels and isinstance(output, Tensor) and output.dim() == 2 and int(data.labels.max()) >= output.shape[1]:
        raise InvalidConfig(
            f"{data.name} has labels up to {int(data.labels.max())}, the model only {output.shape[1]} outputs",
            hint="labels count from 0; take the data that the model was made for",
        )


def _misfit(sample: Tensor, reason: str, *, tokens: bool = False) -> InvalidConfig:
    hint = "a language model reads text: wikitext2:ROOT" if tokens else "take data of the size the model was made for"
    message = f"the model does not take what the data holds: samples are {_size(sample.shape)} ({reason})"
    return InvalidConfig(message, hint=hint)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} tokens" if len(shape) == 1 else "x".join(map(str, shape))
