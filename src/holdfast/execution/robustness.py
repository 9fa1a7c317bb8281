"""Accuracy, and robust error: what is left of accuracy on faulty chips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault
from holdfast.execution.injection import inject
from holdfast.execution.run import Progress, predict
from holdfast.execution.statistics import MeanEstimate, Proportion
from holdfast.seeds import derive


@dataclass(frozen=True)
class RobustError:
    """Test error on simulated chips.

    Attributes:
        clean: error without faults, over the test images (binomial interval).
        per_chip: error of each chip, images that are wrong *after* the bit errors (Stutz et al., their RErr).
        per_chip_or_clean: the same counting an image wrong if it is wrong clean or faulty, as their released code does.
        mean: mean of ``per_chip`` with Student's t interval over chips.
    """

    clean: Proportion
    per_chip: tuple[float, ...]
    per_chip_or_clean: tuple[float, ...]
    mean: MeanEstimate

    @property
    def worst(self) -> float:
        """Error of the worst chip."""
        return max(self.per_chip)


def accuracy(model: nn.Module, data: Dataset, *, batch_size: int = 128, progress: Progress | None = None) -> Proportion:
    """Return top-1 accuracy with Wilson's interval; an output with NaN counts as wrong.

    Raises:
        InvalidConfig: the data has no labels, or labels that the model has no output for.
    """
    outputs = predict(model, data, batch_size=batch_size, progress=progress)
    right = ~_wrong(outputs, data)
    return Proportion.wilson(int(right.sum()), len(data))


def robust_error(
    model: nn.Module,
    data: Dataset,
    fault: Fault,
    *,
    at: str = "weights",
    chips: int = 10,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> RobustError:
    """Evaluate ``model`` on ``chips`` realisations of ``fault``.

    Chip k of one seed is the same for every model with the same sites, so models compare on common random numbers. An
    output with NaN counts as wrong.

    Raises:
        InvalidConfig: no chips, or an empty or unlabelled dataset.
    """
    if chips < 1:
        raise InvalidConfig(f"robust error needs at least one chip, not {chips}")
    wrong = _wrong(predict(model, data, batch_size=batch_size), data)
    rates, or_rates = [], []
    for chip in range(chips):
        with inject(model, fault, at=at, seed=derive(seed, "chip", chip), example=data.example):
            faulty = _wrong(predict(model, data, batch_size=batch_size), data)
        rates.append(float(faulty.double().mean()))
        or_rates.append(float((faulty | wrong).double().mean()))
        if progress is not None:
            progress(chip + 1, chips)
    clean = Proportion.wilson(int(wrong.sum()), len(data))
    return RobustError(clean, tuple(rates), tuple(or_rates), MeanEstimate.student_t(rates))


def _wrong(outputs: Tensor, data: Dataset) -> Tensor:
    """Return which images are classified wrongly, bool, shape (n,)."""
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0:
        raise InvalidConfig(f"{data.name} has no labels to compare with", hint="error rates take labelled images")
    if high >= outputs.shape[1]:
        raise InvalidConfig(f"label {high} is outside the model's {outputs.shape[1]} classes", hint="check the dataset")
    return (outputs.argmax(1) != data.labels) | torch.isnan(outputs).any(1)
