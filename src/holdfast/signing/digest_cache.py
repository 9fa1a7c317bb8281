"""What this machine remembers of files it hashed, so that signing again reads only what changed.

An entry counts only under a message authentication code whose key lies beside the cache, readable by its owner alone:
who can write the model's folder, or even the cache's, cannot make a changed file pass for a known one. An entry is
also bound to the folder, and to size, both times, inode and device of the file; the time of the last change of status
(ctime) is set by the kernel and not by programs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._files import make_folder, read_bytes, write_atomic
from holdfast.errors import StorageError, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.evidence.digest import Hashed
from holdfast.evidence.hashing import Stamp
from holdfast.seeds import Entropy

GROUP = 8 << 20  # bytes that one remembered digest covers, and that one sample reads again
SETTLE = 2.0  # seconds; a file that changed later could change again under the same time stamp, on coarse clocks
_CONTEXT = b"holdfast 2026 digest cache v1\n"
_LIMIT = 64 << 20
_KEY = 32  # bytes


@dataclass(frozen=True, slots=True)
class Known:
    """One remembered file: what told that it had not changed, its BLAKE3 (hex), and that of each 8 MiB."""

    stamp: Stamp
    blake3: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class DigestCache:
    """The memory of one machine's user, in ``folder``; by default ``holdfast`` in the user's cache folder."""

    folder: Path
    settle: float = SETTLE

    @classmethod
    def of_user(cls) -> DigestCache:
        """Return the cache in ``$XDG_CACHE_HOME``, or ``~/.cache``."""
        home = os.environ.get("XDG_CACHE_HOME", "")
        return cls((Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "holdfast" / "digests")

    def recall(self, model: Path | str) -> dict[str, Known]:
        """Return what is known of the files of ``model``; nothing where the entry is missing, foreign or forged.

        Raises:
            StorageError: the key is not this user's alone.
        """
        try:
            data = read_bytes(self._path(model), "digest cache", limit=_LIMIT)
            code, payload = data[:64], data[65:]
            if not hmac.compare_digest(code, self._code(payload)):
                return {}
            value = canonical.loads(payload, what="digest cache")
            return (
                {name: _known(entry) for name, entry in value["files"].items()} if value["root"] == _root(model) else {}
            )
        except (UnreadableArtifact, KeyError, TypeError, ValueError, AttributeError):
            return {}  # a cache that cannot be read only costs time

    def remember(self, model: Path | str, found: Mapping[str, Hashed], kept: Mapping[str, Known] | None = None) -> None:
        """Remember files just hashed with groups of 8 MiB (``Wanted.shards``), and ``kept`` ones from before.

        Raises:
            StorageError: the disk refuses.
        """
        before = time.time_ns() - int(self.settle * 1e9)
        fresh = {name: Known(item.stamp, item.digests["blake3"], item.shards) for name, item in found.items()}
        settled = {
            name: item for name, item in fresh.items() if max(item.stamp.mtime_ns, item.stamp.ctime_ns) <= before
        }
        files = {name: _json(item) for name, item in {**(kept or {}), **settled}.items()}
        payload = canonical.dumps({"root": _root(model), "files": files})
        write_atomic(self._path(model), self._code(payload) + b"\n" + payload)

    def _path(self, model: Path | str) -> Path:
        name = hashlib.sha256(_root(model).encode(errors="surrogateescape")).hexdigest()
        return self.folder / f"{name}.json"

    def _code(self, payload: bytes) -> bytes:
        return hmac.new(self._key(), _CONTEXT + payload, hashlib.sha256).hexdigest().encode()

    def _key(self) -> bytes:
        """Return the key, made at first use; refuse one that others can read or that is not this user's."""
        path = make_folder(self.folder) / "key"
        try:
            with suppress(FileExistsError):
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(Entropy().bytes(_KEY))
            return _private(path)
        except OSError as error:
            raise StorageError(f"cannot use {path}: {error.strerror or error}") from error


def _private(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        others = stat.S_IMODE(status.st_mode) & 0o077
        key = file.read(_KEY + 1)
    if others or status.st_uid != os.geteuid() or len(key) != _KEY:
        raise StorageError(f"{path} is no private key of this user's cache", hint="remove it, and a new one is made")
    return key


def _root(model: Path | str) -> str:
    return os.path.realpath(model)


def _json(item: Known) -> dict[str, Any]:
    times = [str(getattr(item.stamp, name)) for name in Stamp.__slots__]  # nanoseconds do not fit a JSON number
    return {"stamp": times, "blake3": item.blake3, "groups": list(item.groups)}


def _known(value: Any) -> Known:
    return Known(Stamp(*map(int, value["stamp"])), value["blake3"], tuple(value["groups"]))
