"""A ledger of finished chips: one SQLite file in which repeated calls find their work again.

Every chip is one transaction, so it is either whole or absent. The plan that the chips belong to stands beside them;
another plan under the same name is refused, naming what differs. How many chips are wanted is no part of a plan, so
asking for more continues where the last call stopped.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution.database import differing, explained

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plans (name TEXT PRIMARY KEY, plan TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS chips (
    name TEXT NOT NULL REFERENCES plans(name), chip INTEGER NOT NULL, entry TEXT NOT NULL,
    PRIMARY KEY (name, chip)) WITHOUT ROWID;
"""


class Ledger:
    """Finished chips of one plan; a context manager, used by one process at a time.

    Args:
        path: the file; None keeps everything in memory.
        name: of the plan within the file, for example ``rate=0.01``.
        plan: everything that determines a chip's entry, as JSON.

    Raises:
        InvalidConfig: the file holds another plan under ``name``.
        StorageError: the folder does not exist, the disk is full, or the file is read-only or locked.
        UnreadableArtifact: the file is not a ledger.
    """

    def __init__(self, path: Path | str | None, name: str, plan: Mapping[str, Any]) -> None:
        self._name, self._where = name, ":memory:" if path is None else str(path)
        with self._explained():
            self._db = sqlite3.connect(self._where, timeout=10)
            try:
                self._open(json.dumps(plan, sort_keys=True))
            except BaseException:
                self._db.close()
                raise

    def _open(self, plan: str) -> None:
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (self._name, plan))
        (before,) = self._db.execute("SELECT plan FROM plans WHERE name = ?", (self._name,)).fetchone()
        if before != plan:
            changed = differing(self._object(before), json.loads(plan))
            raise InvalidConfig(
                f"{self._where} holds other chips called {self._name!r}: they differ in {', '.join(changed)}",
                hint="use another file, or repeat the first call exactly",
            )

    def entries(self) -> dict[int, dict[str, Any]]:
        """Return the entries of all finished chips by chip number."""
        query = "SELECT chip, entry FROM chips WHERE name = ? ORDER BY chip"
        with self._explained():
            return {number: self._object(entry) for number, entry in self._db.execute(query, (self._name,))}

    def _object(self, text: str | bytes) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise UnreadableArtifact(f"{self._where} is no ledger of chips: {error}", hint="use a new file") from error
        if not isinstance(value, dict):
            raise UnreadableArtifact(f"{self._where} is no ledger of chips: no JSON object", hint="use a new file")
        return value

    def append(self, chip: int, entry: Mapping[str, Any]) -> None:
        """Write the entry of one finished chip."""
        with self._explained(), self._db:
            values = (self._name, chip, json.dumps(entry, sort_keys=True))
            self._db.execute("INSERT OR IGNORE INTO chips VALUES (?, ?, ?)", values)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(
            f"the ledger {self._where}",
            f"{self._where} is no ledger of chips",
            room="free space or choose a writable place; the chips finished so far are kept and resume",
            another="use a new file",
        )
