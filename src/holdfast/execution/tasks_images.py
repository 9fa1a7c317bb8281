"""Tasks over images: what every one of them shares, and classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from holdfast._registry import unknown
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.compare import Cause, Outcome, compare
from holdfast.execution.fit import require_fit
from holdfast.execution.row import Verdict
from holdfast.execution.tasks import Again, Answer, Exam, tasks
from holdfast.models.outputs import logits_of, require_scores

Asked = TypeVar("Asked")  # the task that an exam is of
CRITICAL = ("top-1", "top-5", "margin")
_FLAGS = 4  # of the columns
_COLUMNS = (
    "bit_equal", "nonfinite", "top1_changed", "top5_left", "margin",
    "max_ulp", "max_relative", "max_absolute", "divergence", "probability",
)  # fmt: skip


class Images(Generic[Asked]):
    """An exam on a dataset of images, one pass each; tasks add how an answer is read and judged."""

    def __init__(self, task: Asked, data: Dataset) -> None:
        self._task, self._data = task, data
        self.size, self.example, self.digest = len(data), data.example, data.digest

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """Return the images of these numbers as one batch."""
        return self._data.batch(torch.tensor(numbers))[0]

    def continued(self, numbers: Sequence[int], again: Again, golden: Answer | None) -> None:
        """Ask nothing further."""
        return


def images_for(model: nn.Module, data: Any, *, labels: bool = False) -> Dataset:
    """Return ``data``, which are images that ``model`` takes; with ``labels``, ones that it has outputs for.

    Raises:
        InvalidConfig: no dataset, an empty one, or one that the model does not take.
    """
    if not isinstance(data, Dataset):
        raise InvalidConfig("this task takes a dataset of images", hint="a text goes with Language()")
    if len(data) == 0:
        raise InvalidConfig("a campaign needs images")
    require_fit(model, data, labels=labels)
    return data


@tasks.register("classification")
@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """One image in, one score per class out.

    Attributes:
        critical: what makes silent corruption critical: ``top-1``, another class wins; ``top-5``, one wins that was
            none of the five best (SDC-5 of Li et al., SC 2017); ``margin``, the golden class keeps less than
            ``margin`` of its lead, or loses it.
        margin: share of the golden lead that must remain, 0..1.
    """

    critical: str = "top-1"
    margin: float = 0.5

    def __post_init__(self) -> None:
        if self.critical not in CRITICAL:
            raise unknown("criterion", self.critical, CRITICAL)
        if not 0 <= self.margin <= 1:
            raise InvalidConfig(f"a margin is a share of the golden lead, not {self.margin}", hint="write 0.5")

    def bind(self, model: nn.Module, data: Any) -> Exam:
        """Return the exam on a :class:`~holdfast.data.Dataset`.

        Raises:
            InvalidConfig: no dataset, an empty one, or one that the model does not take.
        """
        return _Scores(self, images_for(model, data, labels=True))


class _Scores(Images[Classification]):
    def read(self, output: object) -> Tensor:
        return require_scores(logits_of(output))

    def judge(self, numbers: Sequence[int], golden: Answer, observed: Answer) -> list[Verdict]:
        found = compare(golden.output, observed.output)
        # fp64 holds every column, so that all leave the device in one transfer
        columns = torch.stack([getattr(found, name).double() for name in _COLUMNS]).tolist()
        return [self._verdict(*map(bool, values[:_FLAGS]), *values[_FLAGS:]) for values in zip(*columns, strict=True)]

    def _verdict(
        self,
        same: bool,
        nonfinite: bool,
        top1: bool,
        top5: bool,
        lead: float,
        ulp: float,
        relative: float,
        absolute: float,
        divergence: float,
        probability: float,
    ) -> Verdict:
        if nonfinite:
            return Verdict(outcome=Outcome.DUE.value, cause=Cause.NON_FINITE.value)
        critical = {"top-1": top1, "top-5": top5, "margin": top1 or lead < self._task.margin}[self._task.critical]
        outcome = Outcome.MASKED if same else Outcome.CRITICAL if critical else Outcome.SDC
        return Verdict(
            outcome=outcome.value,
            max_ulp=ulp,
            max_relative=relative,
            max_absolute=absolute,
            divergence=divergence,
            probability=probability,
            margin=None if math.isnan(lead) else lead,
            top1=int(top1),
            top5=int(top5),
        )
