"""What a world will run, as digests: copied as it is read, so that what was measured is what is there afterwards.

A folder is measured as the list of its files (path, mode's execute bit, length, SHA-256) and links, sorted by path.
Python's ``__pycache__`` is left out, and worlds never read it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import PolicyError, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.shielding.attestation.tpm import event_value

_CHUNK = 1 << 20
_SKIPPED = "__pycache__"
MAX_FILES = 200_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything that was measured, in the order it was: event names and SHA-256 digests."""

    events: tuple[tuple[str, bytes], ...]

    def log(self, register: int) -> bytes:
        """Return the event log of these, as evidence carries it."""
        return canonical.dumps([{"digest": d.hex(), "name": name, "pcr": register} for name, d in self.events])

    def extended(self) -> tuple[bytes, ...]:
        """Return what a register is extended with, in order: names and digests, so that none can be renamed."""
        return tuple(event_value(name, digest) for name, digest in self.events)

    def register(self) -> bytes:
        """Return the value of a register that was extended with these from its start."""
        value = bytes(32)
        for extended in self.extended():
            value = hashlib.sha256(value + extended).digest()
        return value

    def demands(self) -> Mapping[str, tuple[str, ...]]:
        """Return the measurements that a policy asks for which accepts this world and no other."""
        return {f"event.{name}": (digest.hex(),) for name, digest in self.events}


def measure(source: Path, copy: Path | None = None, *, without: Set[str] = frozenset()) -> bytes:
    """Return the digest of a file or folder; with ``copy``, of the copy that this makes of it.

    Without a copy the files stay where they are, so they must be out of the reach of everybody but root and us.
    Folders with a name in ``without`` are left out.

    Raises:
        UnreadableArtifact: absent, unreadable, or something that is neither file, folder nor link.
        PolicyError: measured in place, and others may write to it.
    """
    listing = hashlib.sha256()
    try:
        for folder in source.absolute().parents if copy is None else ():
            _require_out_of_reach(folder, folder.stat())
        for path, name in _walk(source, {_SKIPPED, *without}):
            target = None if copy is None else copy / name if name else copy
            listing.update(_line(path, name, target))
    except OSError as error:
        raise UnreadableArtifact(f"cannot measure {error.filename or source}: {error.strerror or error}") from error
    return listing.digest()


def _walk(source: Path, skipped: Set[str]) -> Iterator[tuple[Path, str]]:
    """Yield every entry with its name below ``source``, sorted."""
    if not source.is_dir():
        yield source, ""
        return
    count = 0
    for folder, folders, files in os.walk(source, onerror=_raise):
        folders[:] = sorted(name for name in folders if name not in skipped)
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in links]
        yield Path(folder), str(Path(folder).relative_to(source))
        for name in sorted([*files, *links]):
            path = Path(folder) / name
            yield path, str(path.relative_to(source))
            if (count := count + 1) > MAX_FILES:
                raise UnreadableArtifact(f"{source} holds more than {MAX_FILES} files")


def _raise(error: OSError) -> None:
    raise error


def _line(path: Path, name: str, target: Path | None) -> bytes:
    status = path.lstat()
    if target is None:
        _require_out_of_reach(path, status)
    if stat.S_ISLNK(status.st_mode):
        where = os.readlink(path)
        if target is not None:
            target.symlink_to(where)
        return canonical.dumps([name, "link", where]) + b"\n"
    if stat.S_ISDIR(status.st_mode):
        if target is not None:
            target.mkdir()
            target.chmod(0o755)  # whatever the caller's umask is, the world reads it as another user
        return canonical.dumps([name, "folder"]) + b"\n"
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableArtifact(f"cannot measure {path}: it is no file, folder or link")
    runs = bool(status.st_mode & 0o111)
    length, digest = _file(path, target, 0o755 if runs else 0o644)
    return canonical.dumps([name, "program" if runs else "file", str(length), digest]) + b"\n"


def _file(path: Path, target: Path | None, mode: int) -> tuple[int, str]:
    """Hash a file, and write what was hashed to ``target``."""
    digest, length = hashlib.sha256(), 0
    with path.open("rb") as source:
        copy = None if target is None else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                length += len(chunk)
                if copy is not None:
                    _write(copy, chunk)
        finally:
            if copy is not None:
                os.fchmod(copy, mode)
                os.close(copy)
    return length, digest.hexdigest()


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _require_out_of_reach(path: Path, status: os.stat_result) -> None:
    """Refuse what somebody else could write to; in a folder with the sticky bit, as /tmp, he touches only his own."""
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    open_to_others = status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode) and not sticky
    if status.st_uid not in (0, os.geteuid()) or open_to_others:
        hint = "chown root and chmod go-w, or have it copied"
        raise PolicyError(f"others may change {path} after it was measured", hint=hint)
