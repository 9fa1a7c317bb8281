"""Run blocks one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.execution.executors.catalogue import executors
from holdfast.execution.plan import Block
from holdfast.execution.trials import Row, TrialRunner


@executors.register("inline")
@dataclass(frozen=True, slots=True, kw_only=True)
class Inline:
    """The calling process."""

    def run(self, runner: TrialRunner, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block in order."""
        yield from map(runner, blocks)

    def map(self, task: Callable[[int], Any], items: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (item, what ``task`` made of it) in order."""
        yield from ((item, task(item)) for item in items)
