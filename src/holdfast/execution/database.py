"""What the SQLite files of this package share: errors in our own words, and what tells one plan from another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from holdfast.errors import StorageError, UnreadableArtifact


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys under which two plans differ, sorted; a key that one of them lacks counts as None there."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


@contextmanager
def explained(file: str, refused: str, *, room: str, another: str) -> Iterator[None]:
    """Turn what SQLite raises inside the block into errors of ours; other errors pass.

    Args:
        file: what is used, for example ``the ledger run.sqlite``.
        refused: what to say of a file that is none, for example ``run.sqlite is no ledger``.
        room: hint when the file cannot be used.
        another: hint when it is of another kind.

    Raises:
        StorageError: the folder does not exist, the disk is full, or the file is read-only or locked.
        UnreadableArtifact: the file is of another kind, or damaged.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        hint = "another process writes to it: wait for it, or give every run a file of its own"
        raise StorageError(f"cannot use {file}: {error}", hint=hint if "locked" in str(error) else room) from error
    except sqlite3.DatabaseError as error:
        raise UnreadableArtifact(f"{refused}: {error}", hint=another) from error
