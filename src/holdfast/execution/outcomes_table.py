"""The table of a campaign as a file that other tools read: JSON lines or Parquet, one row per trial."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes, replacing, write_atomic
from holdfast._registry import unknown
from holdfast.errors import MissingExtra, UnreadableArtifact
from holdfast.execution.row import Row

_NAMES = tuple(field.name for field in fields(Row))
_REQUIRED = ("trial", "site", "element", "bit", "input", "outcome", "guard_events")
_PLAN = b"holdfast.plan"
_TYPES = {"int": "int64", "str": "string", "float": "float64"}


def write_rows(rows: Iterable[Row], path: Path | str, *, plan: Mapping[str, Any] | None = None) -> None:
    """Write rows by trial number to ``path``, whose ending decides: ``.jsonl`` or ``.parquet``.

    Args:
        rows: of a campaign.
        path: of the file, replaced as a whole.
        plan: of the campaign; a Parquet file carries it as ``holdfast.plan`` in its schema's metadata.

    Raises:
        UnknownName: another ending.
        MissingExtra: Parquet without pyarrow.
        StorageError: the disk is full or refuses.
    """
    table = [asdict(row) for row in sorted(rows, key=lambda row: row.trial)]
    if _ending(path) == ".jsonl":
        write_atomic(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in table).encode())
        return
    arrow, parquet = _pyarrow(), _pyarrow(".parquet")
    columns = [(field.name, getattr(arrow, _TYPES[str(field.type).split(" ")[0]])()) for field in fields(Row)]
    schema = arrow.schema(columns, metadata={_PLAN: json.dumps(dict(plan or {}), sort_keys=True).encode()})
    with replacing(path) as temporary:
        parquet.write_table(arrow.Table.from_pylist(table, schema=schema), temporary)


def read_rows(path: Path | str) -> list[Row]:
    """Read rows back from a ``.jsonl`` or ``.parquet`` file.

    Raises:
        UnknownName: another ending.
        MissingExtra: Parquet without pyarrow.
        UnreadableArtifact: a missing file, or one that holds no such rows.
    """
    data = read_bytes(path, "table")
    try:
        if _ending(path) == ".jsonl":
            found = [json.loads(line) for line in data.decode().splitlines()]
        else:
            found = _pyarrow(".parquet").read_table(_pyarrow().BufferReader(data)).to_pylist()
        return [_row(item) for item in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # pyarrow's own errors are ValueErrors
        raise UnreadableArtifact(f"{path} holds no table of trials: {error}") from error


def _row(item: Mapping[str, Any]) -> Row:
    if missing := [name for name in _REQUIRED if item.get(name) is None]:
        raise ValueError(f"a row lacks {missing[0]}")
    values: dict[str, Any] = {name: item.get(name) for name in _NAMES}
    return Row(**values)


def _ending(path: Path | str) -> str:
    ending = Path(path).suffix
    if ending not in (".jsonl", ".parquet"):
        raise unknown("ending of a table", ending, (".jsonl", ".parquet"))
    return ending


def _pyarrow(part: str = "") -> Any:
    try:
        return importlib.import_module("pyarrow" + part)
    except ImportError as error:
        raise MissingExtra("Parquet needs pyarrow", hint="pip install 'holdfast[data]', or write .jsonl") from error
