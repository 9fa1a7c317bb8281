"""Engines: how the trials of a campaign are computed. Every engine gives the same bits at one trial per pass."""

from holdfast.execution.engines.catalogue import Choosing, Engine, build_engine, engines
from holdfast.execution.engines.hooks import Hooks
from holdfast.execution.engines.suffix import Auto, Suffix

__all__ = ["Auto", "Choosing", "Engine", "Hooks", "Suffix", "build_engine", "engines"]
