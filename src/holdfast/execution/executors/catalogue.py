"""Executors: where the blocks of a campaign run. Every executor gives the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from holdfast._registry import Registry
from holdfast.execution.plan import Block
from holdfast.execution.trials import Row, TrialRunner


@runtime_checkable
class Executor(Protocol):
    """Runs blocks of trials somewhere and hands their rows back, in any order."""

    def run(self, runner: TrialRunner, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block exactly once; raise what a block raises."""
        ...


executors: Registry[Executor] = Registry("executor", "holdfast.executors")


def build_executor(spec: str) -> Executor:
    """Build ``inline``, ``processes:4`` or ``name:key=value``.

    Raises:
        UnknownName: no such executor; InvalidConfig: an option it does not take.
    """
    name, _, count = spec.partition(":")
    return executors.build(f"{name}:workers={count}" if count.isdecimal() else spec)
