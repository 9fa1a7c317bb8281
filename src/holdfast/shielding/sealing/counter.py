"""Numbers that only go up, so that nothing single-use is used twice and nothing old passes for new.

A file can be copied and put back, so a counter in a file protects against crashes and mistakes, and against somebody
who can write files but not the counter's own. Against the owner of the disk it takes a counter in hardware, such as a
TPM's NV counter: anything with the members of :class:`MonotonicCounter` takes the file's place.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from threading import Lock
from typing import Protocol

from holdfast import _files
from holdfast.errors import IntegrityError, InvalidConfig, StorageError
from holdfast.evidence import canonical
from holdfast.seeds import Entropy
from holdfast.shielding.sealing.aead import Sealer
from holdfast.shielding.sealing.own_process import OwnProcess

_IDENTITY = 16
_CONTENT = struct.Struct(f">{_IDENTITY}sQ")  # who it is, then its number


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

    Args:
        path: of the file; made at the first :meth:`advance`. ``path.lock`` beside it is locked while this lives.
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
        self._path, self._sealer = Path(path), Sealer(key)
        self._what = canonical.dumps(["holdfast.counter/v1", purpose])
        self._process, self._advancing = OwnProcess(f"the counter {self._path}"), Lock()
        _files.make_folder(self._path.parent)
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            IntegrityError: it is not ``after`` (any more), or ``value`` is not higher.
            StorageError: the disk is full or refuses; the number is what it was.
            InvalidConfig: it is closed, or this process was forked off since it was opened.
        """
        self._process.require()
        with self._advancing:
            if self._lock < 0:
                raise InvalidConfig(f"the counter {self._path} is closed", hint="open it again")
            _require_next(self._value, value, after)
            _files.write_atomic(self._path, self._sealer.seal(_CONTENT.pack(self.identity, value), self._what))
            self._value = value

    def close(self) -> None:
        """Let another process count; more than once does no harm."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _load(self, purpose: str) -> tuple[bytes, int]:
        if not self._path.exists():
            return Entropy().bytes(_IDENTITY), 0
        name = f"the counter {self._path} of {purpose!r}"
        plain = self._sealer.open(self._path.read_bytes(), self._what, name=name)
        if len(plain) != _CONTENT.size:
            raise IntegrityError(f"{name} holds {len(plain)} bytes, not {_CONTENT.size}")
        identity, value = _CONTENT.unpack(plain)
        return identity, value


def _require_next(now: int, value: int, after: int) -> None:
    if now != after:
        raise IntegrityError(f"a counter at {now} does not go on from {after}", hint="somebody else counts on it")
    if value <= now:
        raise IntegrityError(f"a counter at {now} does not go to {value}")
