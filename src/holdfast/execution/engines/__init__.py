"""Engines: how the trials of a campaign are computed. Each gives the bits of whole passes of a size that it states."""

from holdfast.execution.engines.auto import Auto
from holdfast.execution.engines.catalogue import Batching, Choosing, Engine, build_engine, engines
from holdfast.execution.engines.hooks import Hooks
from holdfast.execution.engines.lockstep import Lockstep
from holdfast.execution.engines.suffix import Suffix

__all__ = ["Auto", "Batching", "Choosing", "Engine", "Hooks", "Lockstep", "Suffix", "build_engine", "engines"]
