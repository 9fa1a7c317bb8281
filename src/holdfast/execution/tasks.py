"""Tasks: what a model is asked, how its answer is read, and when another answer is a failure.

A task holds parameters only; bound to data it becomes an exam, which the runner of trials puts to the model with and
without faults. The tasks are in the modules beside this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from holdfast._registry import Registry
from holdfast.data import Dataset, Text
from holdfast.execution.row import Verdict

Again = Callable[[Tensor], object]  # another pass over other inputs, one row for each row, under the same condition


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
