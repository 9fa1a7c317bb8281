"""Where the blocks of a campaign run: in this process, or in forked ones."""

from holdfast.execution.executors.catalogue import Executor, build_executor, executors
from holdfast.execution.executors.inline import Inline
from holdfast.execution.executors.processes import Processes

__all__ = ["Executor", "Inline", "Processes", "build_executor", "executors"]
