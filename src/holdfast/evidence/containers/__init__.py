"""Containers of tensors (safetensors, GGUF, NPZ): their indices, read strictly and without any framework."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import cast

from holdfast.evidence.containers.slot import Read, Slot

Index = Callable[[Read, int], tuple[Slot, ...]]
SUFFIXES = (".safetensors", ".gguf", ".npz")  # each read by the module of its name


def index_for(name: str) -> Index | None:
    """Return what reads the index of a file of this name, or None where the name is that of no container."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        return None
    return cast(Index, importlib.import_module(f"{__name__}{suffix}").index)  # loaded only when there is such a file


__all__ = ["SUFFIXES", "Index", "Read", "Slot", "index_for"]
