"""Writing files so that an interruption loses nothing that already stood there."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.errors import StorageError, UnreadableArtifact


def write_atomic(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary name, fsync and rename.

    Raises:
        StorageError: the disk is full or refuses; a previous file at ``path`` is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def make_folder(path: Path | str) -> Path:
    """Make a folder and its parents, if need be; raise :class:`StorageError` when the disk or a file refuses."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _storage_error(Path(path), error) from error
    return Path(path)


@contextmanager
def making_folder(path: Path | str) -> Iterator[Path]:
    """Make a folder as :func:`make_folder` does, and take it away again when the block fails and left it empty."""
    before = Path(path).exists()
    folder = make_folder(path)
    try:
        yield folder
    except BaseException:
        if not before:
            with suppress(OSError):  # something is in it
                folder.rmdir()
        raise


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds, and vanishes when it fails."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _storage_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        _commit(temporary, path)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _commit(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.chmod(0o644)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {path}: {error.strerror or error}", hint="what stood there before is unchanged")


def read_bytes(
    path: Path | str,
    what: str = "file",
    *,
    limit: int | None = None,
    prefix: int | None = None,
    stream: bool = False,
) -> bytes:
    """Read a whole file, or the first ``prefix`` bytes of it (fewer where it is shorter).

    A pipe that somebody put in the place of a file would keep the reader waiting for ever, so it is refused; unless
    ``stream``, for what the user himself names and a shell may hand over as one.

    Raises:
        UnreadableArtifact: missing, a directory, no regular file, unreadable, or longer than ``limit`` bytes.
    """
    wanted = prefix if limit is None else limit + 1
    try:
        with open(path, "rb", opener=None if stream else _open_regular) as handle:
            data = handle.read() if wanted is None else handle.read(wanted)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {what} {path}: {error.strerror or error}") from error
    if limit is not None and len(data) > limit:
        raise UnreadableArtifact(f"{what} {path} is longer than {limit} bytes")
    return data


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is not a regular file")
