"""Numbers that only go up, so that nothing single-use is used twice and nothing old passes for new.

A file can be copied and put back, so a counter in a file protects against crashes and mistakes, and against somebody
who can write files but not the counter's own. Against the owner of the disk it takes a counter in hardware, such as a
TPM's NV counter: anything with the members of :class:`MonotonicCounter` takes the file's place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Protocol

from holdfast import _files
from holdfast.errors import IntegrityError, InvalidConfig, StorageError
from holdfast.evidence import canonical
from holdfast.seeds import Entropy
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.sealing.aead import Sealer, sealed_size

_IDENTITY = 16
_CONTENT = struct.Struct(f">{_IDENTITY}sQ")  # who it is, then its number
_RECORD = sealed_size(_CONTENT.size)
_PLACES = (0, 4096)  # of the two records, in blocks of their own
_LONGEST = _PLACES[-1] + _RECORD


class MonotonicCounter(Protocol):
    """Keeps one number that never goes down; any number of threads of one process may use it."""

    @property
    def identity(self) -> bytes:
        """Return what no other counter has: drawn when the counter is made, and as durable as its number.

        Masks and sealed models are bound to it, so two counters under one key do not mix.
        """
        ...

    def read(self) -> int:
        """Return the number; 0 at first."""
        ...

    def advance(self, value: int, *, after: int) -> None:
        """Set it from ``after`` to ``value``, durably before returning.

        Raises:
            IntegrityError: it is not ``after`` (any more), or ``value`` is not higher.
        """
        ...


class VolatileCounter:
    """A counter that lives as long as this process, for keys that do too."""

    def __init__(self) -> None:
        self.identity, self._value, self._lock = Entropy().bytes(_IDENTITY), 0, Lock()

    def read(self) -> int:
        """Return the number."""
        return self._value

    def advance(self, value: int, *, after: int) -> None:
        """Set it from ``after`` to ``value``; raise IntegrityError unless it is that, and ``value`` higher."""
        with self._lock:
            _require_next(self._value, value, after)
            self._value = value


class FileCounter:
    """A sealed number in a file, held by one process at a time.

    The file itself is locked and written in place, so whatever leads to it (a symbolic or hard link, a mount) leads to
    one number and one holder. The number stands in it twice, and both are written one after the other: a crash damages
    one of them at most, and the higher one that is whole counts. So it may skip what was just asked for, never go back.

    Args:
        path: of the file; made if need be.
        key: 32 secret bytes; nobody without it can write the file.
        purpose: what is counted, e.g. ``"masks"``. A file of another purpose does not take this one's place, so
            whatever is counted under one key has a purpose of its own.

    Attributes:
        identity: drawn when the file is made, and kept in it.

    Raises:
        StorageError: another process holds it, or the disk refuses.
        IntegrityError: the file is not one of ours, or counts something else.
        InvalidConfig: a key of another length, or no purpose.
    """

    def __init__(self, path: Path | str, key: bytes, *, purpose: str) -> None:
        if not purpose:
            raise InvalidConfig("a counter counts something", hint='say what, e.g. purpose="masks"')
        self._path, self._sealer = Path(os.path.realpath(path)), Sealer(key)
        self._what = canonical.dumps(["holdfast.counter/v2", purpose])
        self._process, self._advancing = OwnProcess(f"the counter {self._path}"), Lock()
        self._file = -1
        _files.make_folder(self._path.parent)
        try:
            self._make()
            self._file = os.open(
                self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
            )  # or a pipe would keep us waiting
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._require_its_place()
            self.identity, self._value = self._load(purpose)
        except OSError as error:
            self.close()
            raise StorageError(
                f"the counter {self._path} cannot be held: {error.strerror or error}",
                hint="one process at a time counts; end the other one",
            ) from error
        except BaseException:
            self.close()
            raise

    def read(self) -> int:
        """Return the number."""
        return self._value

    def advance(self, value: int, *, after: int) -> None:
        """Set it from ``after`` to ``value`` and force that to the disk.

        Raises:
            IntegrityError: it is not ``after`` (any more), or ``value`` is not higher; or the file was removed or
                replaced, so that the next one to open it would not know.
            StorageError: the disk is full or refuses; the number is what it was, unless it is opened again.
            InvalidConfig: it is closed, or this process was forked off since it was opened.
        """
        self._process.require()
        with self._advancing:
            if self._file < 0:
                raise InvalidConfig(f"the counter {self._path} is closed", hint="open it again")
            _require_next(self._value, value, after)
            try:
                self._require_its_place()
                self._write(self._file, self.identity, value)
            except OSError as error:
                raise StorageError(f"the counter {self._path} cannot be written: {error.strerror or error}") from error
            self._value = value

    def close(self) -> None:
        """Let another process count; more than once does no harm."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _make(self) -> None:
        """Make the file with all that is in it at once, unless there is one."""
        if os.path.lexists(self._path):
            return
        handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        try:
            self._write(handle, Entropy().bytes(_IDENTITY), 0)
            with suppress(FileExistsError):  # somebody else was faster
                os.link(name, self._path)
        finally:
            os.close(handle)
            os.unlink(name)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write(self, file: int, identity: bytes, value: int, places: Sequence[int] = _PLACES) -> None:
        for place in places:
            record = self._sealer.seal(_CONTENT.pack(identity, value), self._what)
            if os.pwrite(file, record, place) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)

    def _require_its_place(self) -> None:
        """See that the path leads to the file that is held, or the number would be lost with it."""
        try:
            there = os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            there = False
        if not there:
            raise IntegrityError(
                f"the counter {self._path} was removed or replaced while it was held",
                hint="put the file back that was there, or begin with a new counter",
            )

    def _load(self, purpose: str) -> tuple[bytes, int]:
        name = f"the counter {self._path} of {purpose!r}"
        size = os.fstat(self._file).st_size
        if not stat.S_ISREG(os.fstat(self._file).st_mode) or size > _LONGEST:
            raise IntegrityError(f"{name} does not open: it is no counter's file")
        found, failed = dict[int, tuple[bytes, int]](), list[IntegrityError]()
        for place in _PLACES:
            try:
                found[place] = self._record(place, name)
            except IntegrityError as error:
                failed.append(error)
        if not found:
            raise failed[0]
        if len({identity for identity, _ in found.values()}) > 1:
            raise IntegrityError(f"{name} is put together from two counters")
        identity, value = max(found.values())
        self._write(self._file, identity, value, [place for place in _PLACES if found.get(place) != (identity, value)])
        return identity, value

    def _record(self, place: int, name: str) -> tuple[bytes, int]:
        plain = self._sealer.open(os.pread(self._file, _RECORD, place), self._what, name=name)
        if len(plain) != _CONTENT.size:
            raise IntegrityError(f"{name} holds {len(plain)} bytes, not {_CONTENT.size}")
        identity, value = _CONTENT.unpack(plain)
        return identity, value


def _require_next(now: int, value: int, after: int) -> None:
    if now != after:
        raise IntegrityError(f"a counter at {now} does not go on from {after}", hint="somebody else counts on it")
    if value <= now:
        raise IntegrityError(f"a counter at {now} does not go to {value}")
