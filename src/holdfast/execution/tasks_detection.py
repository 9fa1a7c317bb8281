"""Detection: which objects of an image a fault makes the model lose, and which it makes it see.

The answer of a detector has a length of its own for each image. It is read into a table of fixed length, the surest
objects first, so that answers can be kept and compared bit by bit like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.compare import Cause, Outcome
from holdfast.execution.row import Verdict
from holdfast.execution.tasks import Answer, Exam, tasks
from holdfast.execution.tasks_images import Images, images_for
from holdfast.numerics import bits

_FIELDS = 6  # of an object: label, score, and the box x1, y1, x2, y2
_KEYS = ("boxes", "scores", "labels")


@tasks.register("detection")
@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One image in, objects out: boxes with a label and a score.

    Objects of the faulty answer are matched with those of the golden one, the surest first: same label, and the
    largest IoU of boxes that is at least ``iou``. A golden object without a match is lost, another one is new; a fault
    is critical where more than ``tolerated`` are. This judges whole images, as IVMOD does (Qutub et al., "Hardware
    faults that matter", SAFECOMP 2022), with the golden answer in the place of the true objects.

    The model returns one dictionary per image as torchvision's detectors do: ``boxes`` (objects, 4) as x1, y1, x2, y2,
    ``scores`` (objects,), ``labels`` (objects,).

    Attributes:
        score: objects below it do not count, above 0 and at most 1.
        iou: from which on two boxes are of one object, above 0 and at most 1.
        tolerated: objects lost and new that are still tolerable.
        most: objects of an image that are kept, the surest ones.
    """

    score: float = 0.5
    iou: float = 0.5
    tolerated: int = 0
    most: int = 100

    def __post_init__(self) -> None:
        if not (0 < self.score <= 1 and 0 < self.iou <= 1 and self.tolerated >= 0 and self.most >= 1):
            raise InvalidConfig("scores and IoUs lie above 0 and at most at 1, and objects are counted", hint="iou=0.5")

    def bind(self, model: nn.Module, data: Any) -> Exam:
        """Return the exam on a :class:`~holdfast.data.Dataset`, whose labels are not asked for.

        Raises:
            InvalidConfig: no dataset, an empty one, or one that the model does not take.
        """
        return _Objects(self, images_for(model, data))


class _Objects(Images[Detection]):
    def read(self, output: object) -> Tensor:
        """Return the objects of each image as float32, shape (batch, most, 6), zeros behind the last one."""
        if not isinstance(output, Sequence) or not output or not all(map(_is_answer, output)):
            hint = f"each with {', '.join(_KEYS)} of one length, as torchvision's detectors return"
            raise InvalidConfig("detection needs one dictionary for each image of the batch", hint=hint)
        return torch.stack([_table(answer, self._task.most) for answer in output])

    def judge(self, numbers: Sequence[int], golden: Answer, observed: Answer) -> list[Verdict]:
        return [self._verdict(*rows) for rows in zip(golden.output.cpu(), observed.output.cpu(), strict=True)]

    def _verdict(self, golden: Tensor, observed: Tensor) -> Verdict:
        if not bool(torch.isfinite(observed).all()):
            return Verdict(outcome=Outcome.DUE.value, cause=Cause.NON_FINITE.value)
        one, other = (table[table[:, 1] >= self._task.score] for table in (golden, observed))
        matched = _matched(one, other, self._task.iou)
        moved = len(one) + len(other) - 2 * matched
        critical = Outcome.CRITICAL if moved > self._task.tolerated else Outcome.SDC
        return Verdict(
            outcome=(Outcome.MASKED if bits.bit_equal(golden, observed) else critical).value,
            edits=moved,
            agreement=2 * matched / (len(one) + len(other)) if len(one) + len(other) else 1.0,
        )


def _is_answer(answer: object) -> bool:
    if not isinstance(answer, Mapping) or not all(isinstance(answer.get(key), Tensor) for key in _KEYS):
        return False
    boxes, scores, labels = (answer[key] for key in _KEYS)
    return bool(boxes.shape == (len(boxes), 4) and scores.shape == labels.shape == (len(boxes),))


def _table(answer: Mapping[str, Tensor], most: int) -> Tensor:
    """Return the surest objects of one image; a score that is NaN comes first, for it is not to be overlooked."""
    boxes, scores, labels = (answer[key].float() for key in _KEYS)
    order = scores.sort(descending=True, stable=True).indices[:most]
    table = boxes.new_zeros(most, _FIELDS)
    table[: len(order)] = torch.cat([labels[order, None], scores[order, None], boxes[order]], 1)
    return table


def _matched(golden: Tensor, observed: Tensor, least: float) -> int:
    """Return how many observed objects, in their order, find a golden one of their own."""
    overlaps = box_iou(observed[:, 2:], golden[:, 2:])
    overlaps[observed[:, None, 0] != golden[None, :, 0]] = 0
    matched = 0
    for row in _rows(overlaps):
        if len(row) and float(row.max()) >= least:
            overlaps[:, int(row.argmax())] = 0  # taken
            matched += 1
    return matched


def _rows(table: Tensor) -> Iterable[Tensor]:
    return (table[place] for place in range(len(table)))  # each as it is by then


def box_iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of every box of ``one``, (n, 4), with every one of ``other``, (m, 4); empty boxes have none."""
    low, high = torch.maximum(one[:, None, :2], other[None, :, :2]), torch.minimum(one[:, None, 2:], other[None, :, 2:])
    both = (high - low).clamp_min(0).double().prod(2)
    sizes = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).double().prod(1) for boxes in (one, other)]
    either = sizes[0][:, None] + sizes[1][None, :] - both
    return torch.where(either > 0, both / either, torch.zeros_like(both))
