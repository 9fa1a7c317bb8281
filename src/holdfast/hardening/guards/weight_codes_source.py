"""Good bytes for a damaged page: read from the artifact on disk, and believed only if they have the page's digest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import UnreadableArtifact
from holdfast.evidence.containers.safetensors import index
from holdfast.evidence.containers.slot import Slot

WEIGHTS = "model.safetensors"


@dataclass(slots=True)
class PageSource:
    """The tensors of a safetensors file, or of the folder of an artifact; opened for each read, never held."""

    path: Path
    _slots: dict[str, Slot] = field(default_factory=dict)

    def page(self, name: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of tensor ``name`` from byte ``start`` on; unverified, the caller has the digest.

        Raises:
            UnreadableArtifact: no such file or tensor, or one that is too short.
        """
        path = self.path / WEIGHTS if self.path.is_dir() else self.path
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableArtifact(f"cannot read {path} to mend {name}: {error.strerror}") from error
        try:
            slot = self._slot(handle, name, path)
            return _exactly(handle, slot.offset + start, min(length, slot.length - start), path)
        finally:
            os.close(handle)

    def _slot(self, handle: int, name: str, path: Path) -> Slot:
        if name not in self._slots:
            size = os.fstat(handle).st_size
            self._slots = {slot.name: slot for slot in index(lambda at, n: _exactly(handle, at, n, path), size)}
        if name not in self._slots:
            raise UnreadableArtifact(f"{path} holds no tensor {name}", hint="is it this model's artifact?")
        return self._slots[name]


def _exactly(handle: int, offset: int, length: int, path: Path) -> bytes:
    data = os.pread(handle, length, offset) if length > 0 else b""
    if len(data) != length:
        raise UnreadableArtifact(f"{path} ends before byte {offset + length}")
    return data
