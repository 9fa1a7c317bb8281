"""Tasks: what a model is asked, how its answer is read, and when another answer is a failure.

A task holds parameters only; bound to data it becomes an exam, which the runner of trials puts to the model with and
without faults. :class:`Classification` is here, :class:`~holdfast.execution.tasks_language.Language` beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from holdfast._registry import Registry, unknown
from holdfast.data import Dataset, Text
from holdfast.errors import InvalidConfig
from holdfast.execution.compare import Cause, Outcome, compare
from holdfast.execution.fit import require_fit
from holdfast.execution.row import Verdict

Again = Callable[[Tensor], object]  # another pass over other inputs, one row for each row, under the same condition
CRITICAL = ("top-1", "top-5", "margin")
_FLAGS = 4  # of the columns
_COLUMNS = (
    "bit_equal", "nonfinite", "top1_changed", "top5_left", "margin",
    "max_ulp", "max_relative", "max_absolute", "divergence", "probability",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to a batch of inputs.

    Attributes:
        output: float tensor, its first dimension the batch.
        text: greedy continuations, int64, shape (batch, tokens), where the task asks for any.
    """

    output: Tensor
    text: Tensor | None = None


class Exam(Protocol):
    """A task bound to data; inputs have numbers 0 .. size-1."""

    size: int
    example: Tensor  # one input without batch
    digest: str  # of the data

    def batch(self, numbers: Sequence[int]) -> Tensor:
        """Return the inputs of these numbers as one batch."""
        ...

    def read(self, output: object) -> Tensor:
        """Return the tensor in what the model returned.

        Raises:
            InvalidConfig: the model returned something else than the task expects.
        """
        ...

    def continued(self, numbers: Sequence[int], again: Again, golden: Answer | None) -> Tensor | None:
        """Return what further passes give (see :class:`Answer`), or None; ``golden`` is known under a fault only."""
        ...

    def judge(self, numbers: Sequence[int], golden: Answer, observed: Answer) -> list[Verdict]:
        """Return one verdict per row of two answers whose outputs have one shape and dtype."""
        ...


@runtime_checkable
class Task(Protocol):
    """A frozen dataclass whose fields are the parameters of the task."""

    def bind(self, model: nn.Module, data: Any) -> Exam:
        """Return the exam on ``data``.

        Raises:
            InvalidConfig: the data are not of this task, or the model does not take them.
        """
        ...


tasks: Registry[Task] = Registry("task", "holdfast.tasks")


def task_for(data: Dataset | Text) -> Task:
    """Return the task that data of this kind are for: images are classified, a text is read and continued."""
    return tasks.build("language" if isinstance(data, Text) else "classification")


def describe_task(task: Task) -> dict[str, Any]:
    """Return the registered name of ``task`` and its parameters."""
    known: Any = task
    fields = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    return {"name": tasks.name_of(type(task))} | fields


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
        if not isinstance(data, Dataset):
            raise InvalidConfig("classification takes a dataset of images", hint="a text goes with Language()")
        if len(data) == 0:
            raise InvalidConfig("a campaign needs images")
        require_fit(model, data)
        return _Images(self, data)


class _Images:
    def __init__(self, task: Classification, data: Dataset) -> None:
        self._task, self._data = task, data
        self.size, self.example, self.digest = len(data), data.example, data.digest

    def batch(self, numbers: Sequence[int]) -> Tensor:
        return self._data.batch(torch.tensor(numbers))[0]

    def read(self, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 2:
            raise InvalidConfig("the model must return one tensor of shape (batch, classes)")
        return output

    def continued(self, numbers: Sequence[int], again: Again, golden: Answer | None) -> None:
        return None

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
