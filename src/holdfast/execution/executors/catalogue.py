"""Executors: where the blocks and chips of a campaign run. Every executor gives the same results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from holdfast._registry import Registry
from holdfast.execution.plan import Block
from holdfast.execution.trials import Row, TrialRunner


@runtime_checkable
class Executor(Protocol):
    """Runs blocks of trials somewhere and hands their rows back, in any order."""

    def run(self, runner: TrialRunner, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block exactly once; raise what a block raises."""
        ...

    def map(self, task: Callable[[int], Any], items: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (item, ``task(item)``) for every item exactly once, in any order; results are JSON.

        A task may change the model as long as it puts it back.
        """
        ...


executors: Registry[Executor] = Registry("executor", "holdfast.executors")


def build_executor(spec: str) -> Executor:
    """Build ``inline``, ``processes:4``, ``ray:10.0.0.1:6379`` or ``name:key=value``.

    A bare option is the executor's first parameter.

    Raises:
        UnknownName: no such executor; InvalidConfig: an option it does not take.
    """
    name, _, option = spec.partition(":")
    first = next(iter(inspect.signature(executors.get(name)).parameters), None)
    return executors.build(f"{name}:{first}={option}" if option and first and "=" not in option else spec)
