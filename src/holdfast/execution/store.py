"""Campaign trials in SQLite: one transaction per block, so a killed run resumes without loss or repeats."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from holdfast.errors import InvalidConfig, StorageError
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes

_SCHEMA = """
CREATE TABLE IF NOT EXISTS campaigns (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, plan TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    campaign TEXT NOT NULL REFERENCES campaigns(name), trial INTEGER NOT NULL, site TEXT NOT NULL,
    element INTEGER NOT NULL, bit INTEGER NOT NULL, input INTEGER NOT NULL, outcome TEXT NOT NULL,
    max_ulp REAL NOT NULL, max_relative REAL NOT NULL, guard_events INTEGER NOT NULL,
    PRIMARY KEY (campaign, trial)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One finished trial. ``element`` and ``bit`` are -1 when the fault touched more than one bit."""

    trial: int
    site: str
    element: int
    bit: int
    input: int  # index into the dataset
    outcome: str
    max_ulp: float
    max_relative: float
    guard_events: int


_COLUMNS = ", ".join(field.name for field in fields(Row))


class Store:
    """The trials of named campaigns; ``path`` None keeps them in memory.

    Raises:
        StorageError: the file cannot be opened or written, or is no campaign store.
    """

    def __init__(self, path: Path | str | None) -> None:
        self._path = path
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(sqlite3.OperationalError):  # somebody else still reads: the -wal file then stays
            self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    def open(self, name: str, plan: Mapping[str, Any]) -> None:
        """Begin or resume campaign ``name``.

        Raises:
            InvalidConfig: the store holds a campaign of that name with another plan; names what differs.
        """
        text = canonical.dumps(plan)
        known = self._db.execute("SELECT fingerprint, plan FROM campaigns WHERE name = ?", (name,)).fetchone()
        if known is None:
            row = (name, digest_bytes(text), text.decode())
            self._write("INSERT INTO campaigns VALUES (?, ?, ?)", [row])
        elif known[0] != digest_bytes(text):
            before = canonical.loads(known[1].encode())
            changed = sorted(key for key in before.keys() | plan.keys() if before.get(key) != plan.get(key))
            hint = "use another name or folder, or repeat the first call exactly"
            raise InvalidConfig(f"the stored campaign {name!r} was run with another {', '.join(changed)}", hint=hint)

    def add(self, name: str, rows: Iterable[Row]) -> None:
        """Write the rows of one block in one transaction."""
        values = [(name, *astuple(row)) for row in rows]
        self._write(f"INSERT INTO trials (campaign, {_COLUMNS}) VALUES ({', '.join('?' * 10)})", values)  # noqa: S608

    def finished(self, name: str) -> set[int]:
        """Return the trials that are stored."""
        return {row[0] for row in self._db.execute("SELECT trial FROM trials WHERE campaign = ?", (name,))}

    def rows(self, name: str) -> list[Row]:
        """Return all trials in order."""
        query = f"SELECT {_COLUMNS} FROM trials WHERE campaign = ? ORDER BY trial"  # noqa: S608
        return [Row(*row) for row in self._db.execute(query, (name,))]

    def _write(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(statement, values)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._error(error) from error

    def _error(self, error: Exception) -> StorageError:
        hint = "free some space and repeat the call; finished trials are kept"
        return StorageError(f"cannot write the campaign store {self._path}: {error}", hint=hint)
