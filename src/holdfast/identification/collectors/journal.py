"""The journal of a collection: what was asked for is fixed at the start, and answers are on disk when they count.

A line is written whole as soon as its answer is there, so a killed process loses none; a thread sees to it that lines
reach the disk as well, so a crash of the machine loses the last moment at most.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast._files import make_folder, write_atomic
from holdfast.errors import InvalidConfig, StorageError
from holdfast.evidence import canonical
from holdfast.identification.answers import (
    ANSWERS,
    COLLECTION_TYPE,
    DESCRIPTION,
    Answer,
    Collection,
    digest_of_prompts,
)

_BLOCK = 1 << 16
_ANSWER = b'{"kind":"answer",'


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What stands in ``collection.json``."""

    prompts: tuple[str, ...]
    request: Mapping[str, Any]
    client: Mapping[str, Any]
    server: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps(
            {
                "type": COLLECTION_TYPE,
                "prompts": list(self.prompts),
                "digest": digest_of_prompts(self.prompts),
                "request": dict(self.request),
                "client": dict(self.client),
                "server": dict(self.server),
            }
        )


def require_place(folder: Path) -> Collection | None:
    """Return the collection that lies in ``folder`` already, or None where there is nothing.

    Raises:
        InvalidConfig: the folder holds something else.
        ArtifactError: a collection that cannot be read.
    """
    if (folder / DESCRIPTION).exists():
        return Collection.load(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidConfig(f"{folder} is a file", hint="name another folder")
    if folder.is_dir() and any(path.name != ANSWERS or path.stat().st_size for path in folder.iterdir()):
        raise InvalidConfig(f"{folder} holds something else already", hint="name another folder")
    return None


def require_same(found: Collection, prompts: Sequence[str], request: Mapping[str, Any]) -> None:
    """Raise :class:`InvalidConfig`, naming what differs, unless ``found`` is of the same prompts and request."""
    if tuple(prompts) != found.prompts:
        raise InvalidConfig(
            f"{found.folder} collects answers to other prompts ({len(found.prompts)}, not {len(prompts)}, or others)",
            hint="repeat the call that began it, or name another folder",
        )
    keys = sorted({*request, *found.request})
    other = [f"{key} {found.request.get(key)}" for key in keys if request.get(key) != found.request.get(key)]
    if other:
        raise InvalidConfig(
            f"{found.folder} was begun with {', '.join(other)}",
            hint="repeat the call that began it, or name another folder",
        )


class Journal:
    """The open journal of one collection; a context manager that nobody else can hold at the same time."""

    def __init__(self, folder: Path, description: Description) -> None:
        self._folder = folder
        try:
            make_folder(folder)
            self._file = os.open(folder / ANSWERS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StorageError(f"cannot write {folder}: {error.strerror}") from error
        self._lock()
        self._cut_torn_line()
        if not self._has_answers():  # nothing binds it to what was asked before
            write_atomic(folder / DESCRIPTION, description.to_bytes())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"another process collects into {self._folder}", hint="wait for it") from error

    def _cut_torn_line(self) -> None:
        """Take away a last line that a kill cut short, so that the next one does not continue it."""
        end = os.lseek(self._file, 0, os.SEEK_END)
        kept = end
        while kept and os.pread(self._file, 1, kept - 1) != b"\n":
            start = max(kept - _BLOCK, 0)
            kept = start + os.pread(self._file, kept - start, start).rfind(b"\n") + 1
        if kept != end:
            os.ftruncate(self._file, kept)

    def _has_answers(self) -> bool:
        with (self._folder / ANSWERS).open("rb") as lines:
            return any(line.startswith(_ANSWER) for line in lines)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)

    def add(self, kind: str, value: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            StorageError: the disk is full or refuses; what was written before stands.
        """
        line = json.dumps({"kind": kind, **value}, separators=(",", ":")).encode() + b"\n"
        before = os.lseek(self._file, 0, os.SEEK_END)
        try:
            done = os.write(self._file, line)
        except OSError as error:
            raise StorageError(f"cannot write {self._folder / ANSWERS}: {error.strerror}") from error
        if done != len(line):
            os.ftruncate(self._file, before)
            raise StorageError(f"cannot write {self._folder / ANSWERS}: the disk is full")

    def answer(self, answer: Answer, used: tuple[int, int]) -> None:
        """Write an answer and what it was charged."""
        self.add("answer", answer.to_json() | {"used": list(used)})

    def sync(self) -> None:
        """Return when everything written so far is on the disk."""
        os.fsync(self._file)
