"""A ledger that something else wrote into is named as such, whatever it holds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution.ledger import Ledger

NO_OBJECTS = ["[1, 2]", "7", "null", '"text"', "{", "", "[" * 200_000, b"\xff\xfe"]


def overwrite(path: Path, column: str, value: str | bytes) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {'plans' if column == 'plan' else 'chips'} SET {column} = ?", (value,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Ledger(tmp_path / "chips.sqlite", "a", {"seed": 0}) as ledger:
        ledger.append(0, {"errors": 3})
    return tmp_path / "chips.sqlite"


def test_what_was_appended_is_found(path: Path) -> None:
    with Ledger(path, "a", {"seed": 0}) as ledger:
        assert ledger.entries() == {0: {"errors": 3}}
    with pytest.raises(InvalidConfig, match="differ in seed"):
        Ledger(path, "a", {"seed": 1})


@pytest.mark.parametrize("value", NO_OBJECTS, ids=lambda value: repr(value[:8]))
def test_a_plan_that_is_no_object(path: Path, value: str | bytes) -> None:
    overwrite(path, "plan", value)
    with pytest.raises(UnreadableArtifact, match=r"chips\.sqlite is no ledger"):
        Ledger(path, "a", {"seed": 0})


@pytest.mark.parametrize("value", NO_OBJECTS, ids=lambda value: repr(value[:8]))
def test_an_entry_that_is_no_object(path: Path, value: str | bytes) -> None:
    overwrite(path, "entry", value)
    with (
        Ledger(path, "a", {"seed": 0}) as ledger,
        pytest.raises(UnreadableArtifact, match=r"chips\.sqlite is no ledger"),
    ):
        ledger.entries()
