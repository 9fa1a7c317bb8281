"""The campaign store: one SQLite file that survives kill -9.

A block of trials is one transaction, so a block is either whole or absent. While a campaign writes, the file is in WAL
mode; closing it returns to a single self-contained file that readers leave unchanged.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.execution.database import differing, explained
from holdfast.execution.trials import Row

_COLUMNS = tuple(field.name for field in fields(Row))
_SCHEMA = """
CREATE TABLE IF NOT EXISTS campaigns (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, meta TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    campaign TEXT NOT NULL REFERENCES campaigns(name), trial INTEGER NOT NULL, site TEXT NOT NULL,
    element INTEGER NOT NULL, bit INTEGER NOT NULL, input INTEGER NOT NULL, outcome TEXT NOT NULL,
    max_ulp REAL, max_relative REAL, guard_events INTEGER NOT NULL,
    PRIMARY KEY (campaign, trial)) WITHOUT ROWID;
"""
_INSERT = f"INSERT OR IGNORE INTO trials VALUES (?{', ?' * len(_COLUMNS)})"  # noqa: S608  only question marks
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM trials WHERE campaign = ? ORDER BY trial"  # noqa: S608  only field names


class Store:
    """Rows of one campaign in the file at ``path``; a context manager, used by one process at a time.

    Raises:
        StorageError: the folder does not exist, the disk is full, or the file is read-only or locked.
        UnreadableArtifact: the file is not a campaign store.
        InvalidConfig: ``name`` already holds a campaign with another fingerprint.
    """

    def __init__(self, path: Path | str, name: str, fingerprint: str, meta: Mapping[str, Any]) -> None:
        self._path, self._name = Path(path), name
        with _explained(self._path):
            self._db = sqlite3.connect(self._path, timeout=10, isolation_level=None)
            try:
                self._open(fingerprint, json.dumps(meta, sort_keys=True))
            except BaseException:
                self._db.close()
                raise

    def _open(self, fingerprint: str, meta: str) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO campaigns VALUES (?, ?, ?)", (self._name, fingerprint, meta))
        query = "SELECT fingerprint, meta FROM campaigns WHERE name = ?"
        known, before = self._db.execute(query, (self._name,)).fetchone()
        if known != fingerprint:
            changed = differing(json.loads(before), json.loads(meta))
            raise InvalidConfig(
                f"{self._path} holds another campaign called {self._name!r}: it differs in {', '.join(changed)}",
                hint="pass another name= or store=, or repeat the first call exactly",
            )

    def rows(self) -> list[Row]:
        """Return all rows written so far, by trial number."""
        with _explained(self._path):
            return [Row(*values) for values in self._db.execute(_SELECT, (self._name,))]

    def append(self, rows: Sequence[Row]) -> None:
        """Write one block in one transaction."""
        with _explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_INSERT, [(self._name, *astuple(row)) for row in rows])
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._db):
            if kind is None:
                with _explained(self._path):
                    self._db.execute("PRAGMA journal_mode=DELETE")


def read_campaign(path: Path | str, name: str) -> tuple[dict[str, Any], list[Row]]:
    """Return the plan and the rows of campaign ``name`` in the store at ``path``, without changing the file.

    Raises:
        UnknownName: the store holds no such campaign; the hint lists those it holds.
        StorageError, UnreadableArtifact: the file cannot be opened, or is no store.
    """
    path = Path(path)
    with _explained(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        known = dict(db.execute("SELECT name, meta FROM campaigns").fetchall())
        if name not in known:
            raise unknown(f"campaign in {path}", name, known)
        return json.loads(known[name]), [Row(*values) for values in db.execute(_SELECT, (name,))]


def _explained(path: Path) -> AbstractContextManager[None]:
    return explained(
        f"the campaign store {path}",
        f"{path} is not a campaign store",
        room="free space or choose a writable place with store=; the blocks written so far are kept and resume",
        another="choose another store=",
    )
