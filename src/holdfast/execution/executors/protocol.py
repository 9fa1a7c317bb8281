"""What an executor is given and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from holdfast.data import Dataset
from holdfast.execution.plan import Block
from holdfast.execution.store import Row


@dataclass(frozen=True)
class Job:
    """Everything a worker needs, sent once; afterwards it gets blocks only."""

    model: nn.Module
    data: Dataset
    strict: bool


class Executor(Protocol):
    """Runs blocks and yields the rows of each as it finishes, in any order."""

    def map(self, job: Job, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield one list of rows per block."""
        ...
