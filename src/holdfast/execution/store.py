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
from holdfast.errors import DigestMismatch, InvalidConfig, StorageError, UnknownName, UnsupportedVersion
from holdfast.execution.database import differing, explained
from holdfast.execution.row import Row

_VERSION = 2  # of the schema, in the file's user_version; 1 wrote 0 there
_TYPES = {"int": "INTEGER NOT NULL", "str": "TEXT NOT NULL", "float | None": "REAL", "int | None": "INTEGER"}
_COLUMNS = {field.name: _TYPES.get(str(field.type), "TEXT") for field in fields(Row)}
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS campaigns (
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, meta TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    campaign TEXT NOT NULL REFERENCES campaigns(name), {", ".join(f"{n} {kind}" for n, kind in _COLUMNS.items())},
    PRIMARY KEY (campaign, trial)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS goldens (campaign TEXT PRIMARY KEY REFERENCES campaigns(name), digest TEXT NOT NULL);
"""
_NAMES = ", ".join(_COLUMNS)
_INSERT = f"INSERT OR IGNORE INTO trials (campaign, {_NAMES}) VALUES (?{', ?' * len(_COLUMNS)})"  # noqa: S608  field names


class Store:
    """Rows of one campaign in the file at ``path``; a context manager, used by one process at a time.

    Raises:
        StorageError: the folder does not exist, the disk is full, or the file is read-only or locked.
        UnreadableArtifact: the file is not a campaign store.
        UnsupportedVersion: a newer version wrote the file.
        InvalidConfig: ``name`` already holds a campaign with another fingerprint, or from another platform.
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
        _require_known(self._db, self._path)
        self._db.executescript(_SCHEMA)
        for column in _COLUMNS.keys() - _present(self._db):
            self._db.execute(f"ALTER TABLE trials ADD COLUMN {column} {_COLUMNS[column]}")
        self._db.execute(f"PRAGMA user_version={_VERSION}")
        self._db.execute("INSERT OR IGNORE INTO campaigns VALUES (?, ?, ?)", (self._name, fingerprint, meta))
        query = "SELECT fingerprint, meta FROM campaigns WHERE name = ?"
        known, before = self._db.execute(query, (self._name,)).fetchone()
        if known != fingerprint:
            raise _another(self._path, self._name, differing(json.loads(before), json.loads(meta)))

    def confirm(self, golden: str) -> None:
        """Keep the digest of the golden answers, or compare it with the one that is kept.

        Raises:
            DigestMismatch: the model gives other answers than it gave to the rows that are here.
        """
        with _explained(self._path):
            self._db.execute("INSERT OR IGNORE INTO goldens VALUES (?, ?)", (self._name, golden))
            query = "SELECT digest FROM goldens WHERE campaign = ?"
            (before,) = self._db.execute(query, (self._name,)).fetchone()
        if before != golden:
            raise DigestMismatch(
                f"the model gives other golden answers than those of {self._name!r} in {self._path}, on this platform",
                hint="something unseen changed, such as a driver, or the machine errs: take another name= or store=",
            )

    def rows(self) -> list[Row]:
        """Return all rows written so far, by trial number."""
        with _explained(self._path):
            return _rows(self._db, self._name)

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


def read_campaign(path: Path | str, name: str | None) -> tuple[str, dict[str, Any], list[Row]]:
    """Return name, plan and rows of campaign ``name``, or of the first one, in the store at ``path``.

    The file is not changed.

    Raises:
        UnknownName: the store holds no such campaign; the hint lists those it holds.
        StorageError, UnreadableArtifact: the file cannot be opened, or is no store.
    """
    path = Path(path)
    if not path.is_file():
        hint = "a campaign with store=, or holdfast campaign -o FOLDER, writes one"
        raise StorageError(f"there is no campaign store {path}", hint=hint)
    with _explained(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        known = dict(db.execute("SELECT name, meta FROM campaigns ORDER BY rowid").fetchall())
        name = next(iter(known), "") if name is None else name
        if name not in known:
            error = unknown("campaign", name, known)
            raise UnknownName(f"{path} holds no campaign {name!r}" if known else f"{path} is empty", hint=error.hint)
        _require_known(db, path)
        return name, json.loads(known[name]), _rows(db, name)


def _rows(db: sqlite3.Connection, name: str) -> list[Row]:
    """Return the rows of a campaign; what the file has no column for is None."""
    present = _present(db)
    columns = ", ".join(column if column in present else f"NULL AS {column}" for column in _COLUMNS)
    query = f"SELECT {columns} FROM trials WHERE campaign = ? ORDER BY trial"  # noqa: S608  field names
    return [Row(*values) for values in db.execute(query, (name,))]


def _present(db: sqlite3.Connection) -> set[str]:
    return {row[1] for row in db.execute("PRAGMA table_info(trials)")}


def _require_known(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        hint = "read it with the version of Holdfast that wrote it, or a newer one"
        raise UnsupportedVersion(f"{path} is a campaign store of version {version}, newer than {_VERSION}", hint=hint)


def _another(path: Path, name: str, changed: list[str]) -> InvalidConfig:
    if changed == ["platform"]:
        return InvalidConfig(
            f"the golden answers of {name!r} in {path} come from another platform than this one",
            hint="finish it on the machine and software that began it, or begin anew with another name= or store=",
        )
    if "type" in changed:
        return InvalidConfig(
            f"{path} holds a campaign called {name!r} of an older version, which classified less",
            hint="it can still be read; to run it again pass another name= or store= (-o)",
        )
    return InvalidConfig(
        f"{path} holds another campaign called {name!r}: it differs in {', '.join(changed)}",
        hint="pass another store= (-o) or name=, or repeat the first call exactly",
    )


def _explained(path: Path) -> AbstractContextManager[None]:
    return explained(
        f"the campaign store {path}",
        f"{path} is not a campaign store",
        room="free space or choose a writable place with store=; the blocks written so far are kept and resume",
        another="choose another store=",
    )
