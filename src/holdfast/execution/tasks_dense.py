"""Tasks with an answer at every pixel, or with numbers for an answer: segmentation and regression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.compare import Cause, Distances, Outcome, distances, softmax_distance
from holdfast.execution.row import Verdict
from holdfast.execution.tasks import Answer, Exam, tasks
from holdfast.execution.tasks_images import Images, images_for
from holdfast.models.outputs import logits_of


@tasks.register("segmentation")
@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """One image in, one score per class and pixel out.

    A fault is critical where the map of winning classes has a mean IoU with the golden map below ``iou``: over the
    classes in either map, what both give to a class as a share of what either gives to it.

    The model returns scores (batch, classes, height, width), or has them under ``out`` (torchvision) or ``logits``
    (transformers). One channel is the score of one class against the background, which wins above 0.

    Attributes:
        iou: least mean IoU with the golden map that is still tolerable, 0..1.
    """

    iou: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.iou <= 1:
            raise InvalidConfig(f"an IoU lies between 0 and 1, not {self.iou}", hint="write 0.95")

    def bind(self, model: nn.Module, data: Any) -> Exam:
        """Return the exam on a :class:`~holdfast.data.Dataset`, whose labels are not asked for.

        Raises:
            InvalidConfig: no dataset, an empty one, or one that the model does not take.
        """
        return _Maps(self, images_for(model, data))


class _Maps(Images[Segmentation]):
    def read(self, output: object) -> Tensor:
        scores = logits_of(output)
        if not isinstance(scores, Tensor) or scores.dim() != 4:
            hint = "or a dictionary that has them under 'out', or an object under .logits"
            raise InvalidConfig("segmentation needs scores of shape (batch, classes, height, width)", hint=hint)
        return scores

    def judge(self, numbers: Sequence[int], golden: Answer, observed: Answer) -> list[Verdict]:
        before, after = _with_background(golden.output), _with_background(observed.output)
        found, one, other = distances(golden.output, observed.output), before.argmax(1), after.argmax(1)
        divergence, probability = softmax_distance(before.movedim(1, -1), after.movedim(1, -1))
        agreement, moved = mean_iou(one, other, before.shape[1]), (one != other).flatten(1).any(1)
        return [
            _silent(
                found,
                row,
                critical=agreement[row] < self._task.iou,
                agreement=agreement[row],
                divergence=float(divergence[row].mean()),
                probability=float(probability[row].max()),
                top1=int(moved[row]),
            )
            for row in range(len(numbers))
        ]


def mean_iou(one: Tensor, other: Tensor, classes: int) -> list[float]:
    """Return for each row of two maps, int64 (batch, height, width), their mean IoU over the classes in either."""
    rows = torch.arange(len(one), device=one.device).view(-1, 1, 1)
    cells = ((rows * classes + one) * classes + other).flatten()
    table = torch.bincount(cells, minlength=len(one) * classes**2).view(-1, classes, classes).double()
    both = table.diagonal(dim1=1, dim2=2)
    either = table.sum(1) + table.sum(2) - both
    shares: list[float] = ((both / either.clamp_min(1)).sum(1) / (either > 0).sum(1)).tolist()
    return shares


def _with_background(scores: Tensor) -> Tensor:
    """Return scores of two classes at least: one alone is against a background of score 0."""
    return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores


@tasks.register("regression")
@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """One image in, numbers out: an angle, a pose, a map of depths.

    A fault is critical where an output moves by more than ``relative`` times the largest golden output of the sample,
    or by more than ``absolute``, in the unit of the outputs.

    Attributes:
        relative: None: distances in relation to the outputs do not matter.
        absolute: None: distances as such do not matter.
    """

    relative: float | None = 0.1
    absolute: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.relative, self.absolute) if limit is not None]
        if not limits or not all(limit >= 0 for limit in limits):
            raise InvalidConfig("a regression needs a distance that is tolerable, 0 or more", hint="relative=0.1")

    def bind(self, model: nn.Module, data: Any) -> Exam:
        """Return the exam on a :class:`~holdfast.data.Dataset`, whose labels are not asked for.

        Raises:
            InvalidConfig: no dataset, an empty one, or one that the model does not take.
        """
        return _Numbers(self, images_for(model, data))


class _Numbers(Images[Regression]):
    def read(self, output: object) -> Tensor:
        numbers = logits_of(output)
        if not isinstance(numbers, Tensor) or numbers.dim() < 1 or not numbers.is_floating_point():
            raise InvalidConfig("regression needs one tensor of floats, its first dimension the batch")
        return numbers

    def judge(self, numbers: Sequence[int], golden: Answer, observed: Answer) -> list[Verdict]:
        found, task = distances(golden.output, observed.output), self._task
        far = torch.zeros_like(found.nonfinite)
        if task.relative is not None:
            far |= found.max_relative > task.relative
        if task.absolute is not None:
            far |= found.max_absolute > task.absolute
        return [_silent(found, row, critical=bool(far[row])) for row in range(len(numbers))]


def _silent(found: Distances, row: int, *, critical: bool, **more: Any) -> Verdict:
    """Return the verdict on an output, of which a non-finite one is compared no further."""
    if bool(found.nonfinite[row]):
        return Verdict(outcome=Outcome.DUE.value, cause=Cause.NON_FINITE.value)
    outcome = Outcome.MASKED if bool(found.bit_equal[row]) else Outcome.CRITICAL if critical else Outcome.SDC
    far: dict[str, Any] = {
        name: float(getattr(found, name)[row]) for name in ("max_ulp", "max_relative", "max_absolute")
    }
    return Verdict(outcome=outcome.value, **far, **more)
