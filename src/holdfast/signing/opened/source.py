"""Files of a model, opened so that nobody can send the reader elsewhere, and read into memory that is ours alone.

Every component of a name is opened beneath the last without following links, and only regular files are read: no link
out of the folder, no pipe that blocks, no device. The one exception is a snapshot of the Hugging Face cache, whose
files are links into its own ``blobs`` folder. Reading uses ``pread`` into private anonymous memory: a mapping of the
file itself could change after the check, and would kill the process when the file shrinks.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsafeArtifact

PIECE = 256 << 10  # read and hashed while it is in the core's cache
_STEP = 2 << 20  # bytes of fresh memory asked for at a time
_POPULATE_WRITE = 23  # Linux 5.14's MADV_POPULATE_WRITE, which Python does not name yet
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Hasher(Protocol):
    """What hashlib and blake3 have in common."""

    def update(self, data: memoryview, /) -> object:
        """Take the next bytes."""


def private_buffer(length: int) -> memoryview:
    """Return ``length`` writable zero bytes that no other process can see or change.

    Raises:
        UnreadableArtifact: there is not so much memory.
    """
    if length < PIECE:
        return memoryview(bytearray(length))
    if length > _installed_memory():  # an overcommitting system would promise it, and end the process later
        raise UnreadableArtifact(f"cannot take {length} bytes of memory to read into", hint="is the file what it was?")
    try:
        return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except (OSError, OverflowError) as error:
        raise UnreadableArtifact(f"cannot take {length} bytes of memory to read into") from error


@functools.cache
def _installed_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def populate(buffer: memoryview, start: int, stop: int) -> None:
    """Have the pages under ``start`` to ``stop`` of a whole :func:`private_buffer` ready, where those begin a step.

    The kernel hands out a step at once for a fifth less than page by page while it reads into them. Without that call
    it does the same later, so a refusal means nothing.
    """
    pages = buffer.obj
    if isinstance(pages, mmap.mmap) and len(pages) == len(buffer) and sys.platform == "linux":
        for place in range(-(-start // _STEP) * _STEP, stop, _STEP):
            with suppress(OSError):
                pages.madvise(_POPULATE_WRITE, place, min(_STEP, len(pages) - place))


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One open regular file; ``name`` is for messages."""

    name: str
    handle: int
    size: int  # when it was opened; reading finds out whether that still holds

    def read_into(self, buffer: memoryview, offset: int, *hashers: Hasher) -> None:
        """Fill ``buffer`` from ``offset`` on, feeding every piece to the hashers right after it arrived.

        Raises:
            DigestMismatch: the file ends before the buffer is full.
            UnreadableArtifact: the disk refuses.
        """
        done, length = 0, len(buffer)
        while done < length:
            piece = buffer[done : done + PIECE]
            populate(buffer, done, done + len(piece))
            count = self._read(piece, offset + done)
            if not count:
                raise DigestMismatch(f"{self.name} ends before byte {offset + length}, which was signed")
            for hasher in hashers:
                hasher.update(piece[:count])
            done += count

    def _read(self, piece: memoryview, offset: int) -> int:
        try:
            return os.preadv(self.handle, [piece], offset)
        except OSError as error:
            raise UnreadableArtifact(f"cannot read {self.name}: {error.strerror}") from error

    def close(self) -> None:
        """Give the file back."""
        os.close(self.handle)


class Folder:
    """A model's folder, held open: renaming it away or replacing it does not change what is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreadableArtifact(f"cannot open {path}: {error.strerror}") from error

    def open(self, name: str) -> OpenFile:
        """Open the file of that relative POSIX name; the caller closes it.

        Raises:
            DigestMismatch: it is missing.
            UnsafeArtifact: a link, or no regular file.
            UnreadableArtifact: the system refuses.
        """
        if self._handle < 0:
            raise InvalidConfig(f"{self.path} was closed before {name} was read")
        *folders, last = name.split("/")
        try:
            with self._beneath(folders) as parent:
                return _regular(name, self._open_last(parent, last, len(folders)))
        except FileNotFoundError as error:
            raise DigestMismatch(f"{name} is missing") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise UnsafeArtifact(f"{name} is a link, or something else than a file") from error
            raise UnreadableArtifact(f"cannot read {name}: {error.strerror}") from error

    @contextmanager
    def _beneath(self, folders: list[str]) -> Iterator[int]:
        """Descend one component at a time, following no link."""
        handle = os.dup(self._handle)
        try:
            for folder in folders:
                below = os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=handle)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def _open_last(self, parent: int, name: str, depth: int) -> int:
        try:
            return os.open(name, _FLAGS, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ELOOP or self.path.absolute().parent.name != "snapshots":
                raise
            return self._open_blob(os.readlink(name, dir_fd=parent), depth)

    def _open_blob(self, target: str, depth: int) -> int:
        """Open what a link in a snapshot of the Hugging Face cache points at, if that is one of the cache's blobs."""
        prefix = "../" * (depth + 2) + "blobs/"
        blob = target.removeprefix(prefix)
        if not target.startswith(prefix) or "/" in blob or blob in {"", ".", ".."}:
            raise UnsafeArtifact(f"a link of the snapshot leads to {target}, which is outside its blobs")
        blobs = os.open("../../blobs", _FLAGS | os.O_DIRECTORY, dir_fd=self._handle)
        try:
            return os.open(blob, _FLAGS, dir_fd=blobs)
        finally:
            os.close(blobs)

    def close(self) -> None:
        """Give the folder back; a second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _regular(name: str, handle: int) -> OpenFile:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise UnsafeArtifact(f"{name} is no regular file")
    return OpenFile(name, handle, status.st_size)
