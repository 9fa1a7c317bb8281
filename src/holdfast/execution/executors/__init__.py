"""Where the blocks of a campaign run: in this process, in forked ones, or on the machines of a cluster."""

from holdfast.execution.executors.catalogue import Executor, build_executor, executors
from holdfast.execution.executors.inline import Inline
from holdfast.execution.executors.processes import Processes
from holdfast.execution.executors.ray import Ray

__all__ = ["Executor", "Inline", "Processes", "Ray", "build_executor", "executors"]
