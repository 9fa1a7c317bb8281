"""Suffix re-execution: trials that share a cached golden pass and compute only what their fault changes."""

from holdfast.execution.engines.suffix.engine import Suffix

__all__ = ["Suffix"]
