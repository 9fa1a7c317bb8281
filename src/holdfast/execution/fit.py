"""Whether a model takes what a dataset holds, asked once and without faults, before anything is measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.data import Dataset, require_images
from holdfast.errors import InvalidConfig
from holdfast.execution.memory import is_out_of_memory, too_small
from holdfast.models import card
from holdfast.models.misfit import REFUSALS, misfit, sized
from holdfast.models.outputs import logits_of
from holdfast.models.subject import evaluating, require_module, require_values


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
    require_images(data)
    require_module(model)
    require_values(model)
    sample = data.example
    known = card(model).input_shape
    if known is not None and tuple(known) != tuple(sample.shape):
        raise misfit(model, sample, f"it was made for {sized(known)}")
    try:
        with torch.no_grad(), evaluating(model):
            output = logits_of(model(sample[None]))
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise too_small() from error
        raise misfit(model, sample, error) from error
    if labels and isinstance(output, Tensor) and output.dim() == 2 and int(data.labels.max()) >= output.shape[1]:
        raise InvalidConfig(
            f"{data.name} has labels up to {int(data.labels.max())}, the model only {output.shape[1]} outputs",
            hint="labels count from 0; take the data that the model was made for",
        )
