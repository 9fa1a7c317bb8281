"""Lockstep: trials are the rows of one batch, and all of them run from the first faulty step on."""

from holdfast.execution.engines.lockstep.engine import Lockstep

__all__ = ["Lockstep"]
