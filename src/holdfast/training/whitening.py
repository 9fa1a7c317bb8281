"""Setting a network's whitening layer from the images it is trained on."""

from __future__ import annotations

import copy

from torch import nn

from holdfast.data import Dataset
from holdfast.data.augmentation import channel_statistics
from holdfast.errors import InvalidConfig
from holdfast.evidence.lineage import Step
from holdfast.models import card, manifest_of
from holdfast.models.whitening import whitening_of


def whiten(model: nn.Module, data: Dataset) -> nn.Module:
    """Return a copy of ``model`` whose whitening layer subtracts the mean and divides by the deviation of ``data``.

    Args:
        model: a network with a :class:`~holdfast.models.whitening.Whitening` layer; unchanged.
        data: the training set, with pixels in 0..1 as network inputs.

    Raises:
        InvalidConfig: no such layer, or data that its own preprocessing normalises already.
    """
    result = copy.deepcopy(model)
    layer = whitening_of(result)
    if layer is None:
        raise InvalidConfig("the model has no whitening layer", hint="build it with whitening=true")
    preprocessing = data.preprocessing
    if any(preprocessing.mean) or any(value != 1 for value in preprocessing.std):
        hint = f"read it with mean={'/'.join('0' * len(layer.mean))} and std={'/'.join('1' * len(layer.mean))}"
        raise InvalidConfig(f"{data.name} is normalised before the whitening layer sees it", hint=hint)
    mean, std = channel_statistics(data)
    layer.set(mean, std)
    inputs = {"data": data.digest, "model": manifest_of(model).digest}
    step = Step("whiten", {"mean": list(mean), "std": list(std)}, inputs)
    card(result).lineage.append(step)
    return result
