"""Digests of bytes, files and tensors: BLAKE3 as the name of things, SHA-256 beside it for other tools."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blake3 import blake3

from holdfast.errors import UnreadableArtifact

_CHUNK = 1 << 20
_TENSOR_CONTEXT = "holdfast 2026 tensor v1"


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The size and both digests (lower-case hex) of one byte string."""

    size: int  # bytes
    sha256: str
    blake3: str


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the BLAKE3 digest of ``data`` as 64 hex digits."""
    return blake3(data).hexdigest()


def digest_both(data: bytes | memoryview) -> FileDigest:
    """Return the size and both digests of bytes in memory."""
    return FileDigest(len(data), hashlib.sha256(data).hexdigest(), blake3(data).hexdigest())


def digest_file(path: Path | str) -> FileDigest:
    """Return size, SHA-256 and BLAKE3 of a file from one read pass and constant memory.

    Raises:
        UnreadableArtifact: the file is missing or cannot be read.
    """
    sha, tree, size = hashlib.sha256(), blake3(), 0
    try:
        with Path(path).open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                sha.update(chunk)
                tree.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {path}: {error.strerror or error}") from error
    return FileDigest(size, sha.hexdigest(), tree.hexdigest())


def digest_tensor(name: str, dtype: str, shape: Iterable[int], data: bytes | memoryview) -> str:
    """Return the BLAKE3 digest that binds a tensor's name, dtype, shape and little-endian row-major bytes.

    Every field is length-prefixed under a context of its own, so no two different tensors share an input.
    """
    sides = list(shape)
    hasher = blake3(derive_key_context=_TENSOR_CONTEXT)
    for field in (name.encode(), dtype.encode(), b"".join(side.to_bytes(8, "little") for side in sides)):
        hasher.update(len(field).to_bytes(8, "little"))
        hasher.update(field)
    hasher.update(data)
    return hasher.hexdigest()


def digest_tree(root: Path | str, *, exclude: Iterable[str] = ()) -> dict[str, FileDigest]:
    """Return the digest of every regular file below ``root`` by POSIX path, sorted; a file gives one entry ``"."``.

    ``exclude`` holds relative POSIX paths to leave out; that of a folder leaves out everything in it.

    Raises:
        UnreadableArtifact: ``root`` is missing, or holds a link, device, socket or a name that is not UTF-8.
    """
    root, left_out = Path(root), set(exclude)
    if root.is_file() and not root.is_symlink():
        return {".": digest_file(root)}
    if not root.is_dir():
        raise UnreadableArtifact(f"no file or folder at {root}")
    names = {_relative(path, root): path for path in sorted(root.rglob("*")) if path.is_symlink() or not path.is_dir()}
    return {name: _regular(names[name]) for name in sorted(names) if not _within(name, left_out)}


def _within(name: str, folders: set[str]) -> bool:
    return name in folders or any(str(parent) in folders for parent in PurePosixPath(name).parents)


def _relative(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UnreadableArtifact(f"the name {name!r} is not UTF-8", hint="rename the file") from None
    return name


def _regular(path: Path) -> FileDigest:
    if path.is_symlink() or not path.is_file():
        raise UnreadableArtifact(
            f"{path} is not a regular file", hint="replace links and devices by the files they name"
        )
    return digest_file(path)
