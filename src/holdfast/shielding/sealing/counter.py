"""Numbers that only go up, so that nothing single-use is used twice and nothing old passes for new.

A file can be copied and put back, so a counter in a file protects against crashes and mistakes, and against somebody
who can write files but not the counter's own. Against the owner of the disk it takes a counter in hardware, such as a
TPM's NV counter: anything with the two methods of :class:`MonotonicCounter` takes the file's place.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Protocol

from holdfast import _files
from holdfast.errors import IntegrityError, StorageError
from holdfast.shielding.sealing.aead import Sealer

_VALUE = struct.Struct(">Q")


class MonotonicCounter(Protocol):
    """Keeps one number that never goes down."""

    def read(self) -> int:
        """Return the number; 0 at first."""
        ...

    def advance(self, value: int) -> None:
        """Set it to ``value``, durably before returning; raise IntegrityError unless that is higher."""
        ...


class VolatileCounter:
    """A counter that lives as long as this process, for keys that do too."""

    def __init__(self) -> None:
        self._value = 0

    def read(self) -> int:
        """Return the number."""
        return self._value

    def advance(self, value: int) -> None:
        """Set it to ``value``; raise IntegrityError unless that is higher."""
        _require_higher(self._value, value)
        self._value = value


class FileCounter:
    """A sealed number in a file, held by one process at a time.

    Args:
        path: of the file; made at the first :meth:`advance`. ``path.lock`` beside it is locked while this lives.
        sealer: proves that nobody else wrote it.

    Raises:
        StorageError: another process holds it, or the disk refuses.
        IntegrityError: the file is not one of ours.
    """

    def __init__(self, path: Path | str, sealer: Sealer) -> None:
        self._path, self._sealer = Path(path), sealer
        _files.make_folder(self._path.parent)
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._value = self._load()
        except OSError as error:
            self.close()
            raise StorageError(
                f"the counter {self._path} cannot be held: {error.strerror or error}",
                hint="one process at a time counts; end the other one",
            ) from error
        except IntegrityError:
            self.close()
            raise

    def read(self) -> int:
        """Return the number."""
        return self._value

    def advance(self, value: int) -> None:
        """Set it to ``value`` and force that to the disk; raise IntegrityError unless that is higher."""
        _require_higher(self._value, value)
        _files.write_atomic(self._path, self._sealer.seal(_VALUE.pack(value), b"counter"))
        self._value = value

    def close(self) -> None:
        """Let another process count."""
        os.close(self._lock)

    def _load(self) -> int:
        if not self._path.exists():
            return 0
        plain = self._sealer.open(self._path.read_bytes(), b"counter", name=f"the counter {self._path}")
        return int(_VALUE.unpack(plain)[0])


def _require_higher(now: int, value: int) -> None:
    if value <= now:
        raise IntegrityError(f"a counter at {now} does not go to {value}")
