"""Completeness: nothing beside the signed files that somebody might load or run, and no index that disagrees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from holdfast.errors import DigestMismatch, UnreadableArtifact
from holdfast.evidence.containers import SUFFIXES, Slot, index_for
from holdfast.signing.opened.content import Content
from holdfast.signing.opened.memory import Memory

CODE = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh", ".js", ".lua", ".ipynb", ".jinja", ".jar"})
PICKLES = frozenset({".pt", ".pth", ".th", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".msgpack"})
WEIGHTS = frozenset({*SUFFIXES, ".onnx", ".h5", ".keras", ".tflite", ".pte", ".engine", ".mlmodel"})
_REFUSED = CODE | PICKLES | WEIGHTS
_DEEPEST = 64  # folders
_GIT = ".git"  # holds objects and hooks that no loader reads; OMS leaves it out, too


def require_nothing_unsigned(model: Path, content: Content, memory: Memory) -> None:
    """Refuse missing files, unsigned code, pickles and weights, and containers whose index is not the signed one.

    Raises:
        DigestMismatch: names the file, or the tensor.
        ArtifactError: an index that cannot be read.
    """
    for name in sorted(_names(model)) if model.is_dir() else ():
        if name not in content.files and PurePosixPath(name).suffix.lower() in _REFUSED:
            raise DigestMismatch(f"{name} was not signed", hint="with strict=False it is ignored, and never read")
    for listed in content.files.values():
        memory.require_present(listed)
    for file in content.tensors:
        require_index_agrees(file, content, memory)


def require_index_agrees(file: str, content: Content, memory: Memory) -> None:
    """Refuse a container whose own index, read without believing it, describes other tensors than the signed ones.

    Raises:
        DigestMismatch: names the tensor.
        ArtifactError: an index that cannot be read.
    """
    index, entries = index_for(file), content.tensors.get(file)
    if index is None or entries is None:  # without signed tensors the file is read and verified as a whole
        return
    read, size = memory.index(content.files[file])
    signed = {e.name: Slot(e.name, e.dtype, e.shape, e.offset, e.length) for e in entries.values()}
    _require_agreement(file, {slot.name: slot for slot in index(read, size)}, signed)


def _require_agreement(file: str, found: dict[str, Slot], signed: dict[str, Slot]) -> None:
    for name in sorted(found.keys() ^ signed.keys()):
        raise DigestMismatch(f"{name} in {file} " + ("was not signed" if name in found else "is missing"))
    for name in sorted(signed):
        if found[name] != signed[name]:
            raise DigestMismatch(f"the index of {file} describes {name} in another way than the signed manifest")


def _names(folder: Path, prefix: str = "") -> Iterator[str]:
    """Yield the relative names of everything that is no folder; links are named and not followed."""
    if prefix.count("/") > _DEEPEST:
        raise UnreadableArtifact(f"the model is nested deeper than {_DEEPEST} folders")
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UnreadableArtifact(f"cannot list {folder}: {error.strerror}") from error
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_symlink() and entry.is_dir():
            raise DigestMismatch(f"{name} is a link to a folder, which no signature covers")
        if entry.is_dir(follow_symlinks=False):
            if name != _GIT:
                yield from _names(Path(entry.path), f"{name}/")
        else:
            yield name
