"""Containers of tensors (safetensors, GGUF, NPZ): their indices, read strictly and without any framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from holdfast.evidence.containers import gguf, npz, safetensors
from holdfast.evidence.containers.slot import Read, Slot

Index = Callable[[Read, int], tuple[Slot, ...]]
INDICES: Mapping[str, Index] = {".safetensors": safetensors.index, ".gguf": gguf.index, ".npz": npz.index}


def index_for(name: str) -> Index | None:
    """Return what reads the index of a file of this name, or None where the name is that of no container."""
    return INDICES.get(PurePosixPath(name).suffix.lower())


__all__ = ["INDICES", "Index", "Read", "Slot", "index_for"]
