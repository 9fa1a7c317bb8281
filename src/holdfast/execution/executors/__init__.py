"""Where the blocks of a campaign run. Every executor gives the same rows."""

from __future__ import annotations

from holdfast._registry import Registry, unknown
from holdfast.errors import InvalidConfig
from holdfast.execution.executors.inline import Inline
from holdfast.execution.executors.processes import Processes
from holdfast.execution.executors.protocol import Executor, Job

executors: Registry[Executor] = Registry("executor", "holdfast.executors")
executors.register("inline")(Inline)
executors.register("processes")(Processes)


def executor_from(spec: str) -> Executor:
    """Build an executor from ``inline`` or ``processes:N``."""
    name, _, count = spec.partition(":")
    if name not in executors.names():
        raise unknown("executor", name, executors.names())
    if not count:
        return executors.build(name)
    if not count.isdecimal():
        raise InvalidConfig(f"cannot read the executor {spec!r}", hint="write inline or processes:2")
    return executors.get(name)(workers=int(count))


__all__ = ["Executor", "Inline", "Job", "Processes", "executor_from", "executors"]
