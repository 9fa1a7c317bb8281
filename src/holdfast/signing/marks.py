"""High-water marks: the highest version of each signed thing that this machine has accepted, in a small local file.

Signatures cannot tell a replayed older version from the current one; memory can. The file is this machine's own and is
not signed: whoever can delete it can make the machine forget, and the next thing seen is then the first one.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._files import make_folder, read_bytes, write_atomic
from holdfast.errors import PolicyError, StorageError, UnreadableArtifact
from holdfast.evidence import canonical

FILE_TYPE = "https://holdfast.dev/high-water-marks/v1"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest version seen of one thing, and the digest (hex) of what had it."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks in the file at ``path``, which need not exist yet."""

    path: Path

    def read(self) -> dict[str, Mark]:
        """Return all marks by name; none when there is no file.

        Raises:
            UnreadableArtifact: the file is damaged; it is never taken for an empty one.
        """
        if not self.path.exists():
            return {}
        value = canonical.loads(read_bytes(self.path, "high-water marks", limit=_LIMIT), what=str(self.path))
        if not isinstance(value, dict) or value.get("type") != FILE_TYPE or not isinstance(value.get("marks"), dict):
            raise UnreadableArtifact(f"{self.path} is not a file of high-water marks", hint="restore it from a backup")
        return {name: self._mark(name, item) for name, item in value["marks"].items()}

    def _mark(self, name: str, item: Any) -> Mark:
        if not isinstance(item, dict) or set(item) != {"version", "digest"}:
            raise UnreadableArtifact(f"{self.path} is damaged at {name!r}", hint="restore it from a backup")
        version, digest = item["version"], item["digest"]
        if isinstance(version, bool) or not isinstance(version, int) or not _DIGEST.fullmatch(str(digest)):
            raise UnreadableArtifact(f"{self.path} is damaged at {name!r}", hint="restore it from a backup")
        return Mark(version, digest)

    def require_no_older(self, name: str, mark: Mark) -> str:
        """Return how ``mark`` compares with what was seen under ``name``; remembers nothing.

        Raises:
            PolicyError: a higher version was seen, or the same version of something else.
        """
        seen = self.read().get(name)
        if seen is None:
            return f"version {mark.version} is the first one seen here"
        if mark.version < seen.version:
            raise PolicyError(f"{name} has version {mark.version}; version {seen.version} was already accepted here")
        if mark.version == seen.version and mark.digest != seen.digest:
            raise PolicyError(f"{name} has version {mark.version}, which was accepted here with other contents")
        return f"version {mark.version}, and none higher than {seen.version} was accepted here"

    def require_same_name(self, name: str) -> None:
        """Return if nothing of the same kind, such as ``revocations:``, was seen here, or this one was; else raise.

        Raises:
            PolicyError: another list, or key set, was accepted here: who put this one in its place can go back so, too.
        """
        kind = name.partition(":")[0]
        others = sorted(item for item in self.read() if item.partition(":")[0] == kind)
        if others and name not in others:
            raise PolicyError(
                f"{name} was never accepted here, and {others[0]} was", hint="pin it in the policy: name ="
            )

    def remember(self, *marks: tuple[str, Mark]) -> None:
        """Raise the marks to these, all or none, in one atomic write under a lock.

        Raises:
            PolicyError: one of them is older than what was seen meanwhile; nothing is written.
        """
        with self._lock():
            known = self.read()
            for name, mark in marks:
                self.require_no_older(name, mark)
                known[name] = mark
            rows = {name: {"version": item.version, "digest": item.digest} for name, item in known.items()}
            write_atomic(self.path, canonical.dumps({"type": FILE_TYPE, "marks": rows}))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold a lock beside the file: two checks at once must not lose the higher of two marks."""
        make_folder(self.path.parent)
        try:
            handle = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
