"""Files of fault lists: JSON lines, which any tool reads, and Parquet, which tables read.

A ``.jsonl`` file begins with one object that says what it is and where it comes from; every further line is a trial.
A ``.parquet`` file holds one row per changed element, and one without element for a trial that changes nothing; what
the first line says stands in its metadata under ``holdfast``. Both hold the same, and both are read strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes, replacing, write_atomic
from holdfast.data.commitments.arrow_rows import pyarrow
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.execution.fault_list import FaultList, ListedTrial, lines_of

FAULT_LIST_TYPE = "holdfast.fault-list/v1"
_LIMIT = 2**30  # bytes of a file
_NUMBERS = ("flip", "rise", "fall", "before", "after")


def write_fault_list(path: Path | str, listed: FaultList) -> None:
    """Write a list as JSON lines or as Parquet, as the suffix says.

    Raises:
        InvalidConfig: another suffix, or a rule that cannot be written.
        MissingExtra: Parquet without pyarrow.
        StorageError: the disk refuses.
    """
    head = {"type": FAULT_LIST_TYPE, "trials": len(listed), "digest": listed.digest, "about": dict(listed.about)}
    if fault_list_suffix(path) == ".jsonl":
        write_atomic(path, b"".join(canonical.dumps(line) + b"\n" for line in (head, *lines_of(listed))))
        return
    table = pyarrow().Table.from_pylist([row for line in lines_of(listed) for row in _rows(line)], schema=_schema())
    table = table.replace_schema_metadata({"holdfast": canonical.dumps(head)})
    parquet = pyarrow(".parquet")
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)


def read_fault_list(path: Path | str) -> FaultList:
    """Read a list that :func:`write_fault_list` wrote.

    Raises:
        InvalidConfig: another suffix.
        UnreadableArtifact: missing, truncated, or malformed anywhere.
        UnsupportedVersion: not a fault list of this version.
        MissingExtra: Parquet without pyarrow.
    """
    head, lines = _json_lines(path) if fault_list_suffix(path) == ".jsonl" else _parquet(path)
    if not isinstance(head, dict) or head.get("type") != FAULT_LIST_TYPE:
        raise UnsupportedVersion(f"{path} holds no {FAULT_LIST_TYPE}", hint="write_fault_list writes such a file")
    if set(head) != {"type", "trials", "digest", "about"} or not isinstance(head["about"], dict):
        raise UnreadableArtifact(f"{path} begins with other fields than a fault list has")
    if head["trials"] != len(lines):
        raise UnreadableArtifact(f"{path} holds {len(lines)} trials and announces {head['trials']}: it was cut")
    try:
        listed = FaultList(tuple(map(ListedTrial.from_json, lines)), head["about"])
    except InvalidConfig as error:
        raise UnreadableArtifact(f"{path} is malformed: {error}") from error
    if listed.digest != head["digest"]:
        raise UnreadableArtifact(f"{path} was edited: its trials are not those of its digest")
    return listed


def fault_list_suffix(path: Path | str) -> str:
    """Return the ending of a file name; :class:`InvalidConfig` where it is none of a fault list."""
    suffix = Path(path).suffix
    if suffix not in (".jsonl", ".parquet"):
        raise InvalidConfig(
            f"a fault list is a .jsonl or .parquet file, not {path}", hint="name it faults.jsonl or faults.parquet"
        )
    return suffix


def _json_lines(path: Path | str) -> tuple[Any, list[Any]]:
    lines = read_bytes(path, "fault list", limit=_LIMIT).split(b"\n")
    if lines.pop() != b"" or not lines:
        raise UnreadableArtifact(f"{path} does not end with a line: it was cut, or is empty")
    head, *rest = (canonical.loads(line, what=f"line {number} of {path}") for number, line in enumerate(lines, 1))
    return head, rest


def _schema() -> Any:
    arrow = pyarrow()
    whole, text = arrow.int64(), arrow.string()
    fields = [("trial", whole), ("input", whole), ("change", whole)]
    fields += [("kind", text), ("name", text), ("format", text), ("bits", whole), ("shape", arrow.list_(whole))]
    fields += [("element", whole), *((name, arrow.uint64()) for name in _NUMBERS), ("rule", text)]
    return arrow.schema(fields)


def _rows(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    trial = {"trial": line["trial"], "input": line["input"]}
    if not line["changes"]:
        return [trial]
    return [trial | row for number, change in enumerate(line["changes"]) for row in _elements(number, change)]


def _elements(number: int, change: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for place, element in enumerate(change["element"]):
        row = {"change": number, "element": element, **change["site"]}
        row |= {name: int(change[name][place], 16) for name in _NUMBERS if name in change}
        if place == 0 and "rule" in change:  # of all elements of the change
            row["rule"] = canonical.dumps(change["rule"]).decode()
        rows.append(row)
    return rows


def _parquet(path: Path | str) -> tuple[Any, list[Any]]:
    arrow, parquet = pyarrow(), pyarrow(".parquet")
    try:
        table = parquet.read_table(Path(path), use_threads=False)
    except (OSError, arrow.ArrowException) as error:
        raise UnreadableArtifact(f"cannot read fault list {path}: {error}") from error
    head = (table.schema.metadata or {}).get(b"holdfast")
    if head is None or not table.schema.equals(_schema()):
        raise UnsupportedVersion(f"{path} holds no {FAULT_LIST_TYPE}", hint="write_fault_list writes such a file")
    lines: list[dict[str, Any]] = []
    for row in table.to_pylist():
        if not lines or lines[-1]["trial"] != row["trial"]:
            lines.append({"trial": row["trial"], "input": row["input"], "changes": []})
        if row["change"] is not None:
            _add(lines[-1]["changes"], row, path)
    return canonical.loads(head, what=f"the metadata of {path}"), lines


def _add(changes: list[dict[str, Any]], row: Mapping[str, Any], path: Path | str) -> None:
    """Add one element to the change it belongs to."""
    site = {name: row[name] for name in ("kind", "name", "format", "bits", "shape")}
    given = [name for name in _NUMBERS if row[name] is not None]
    if row["change"] == len(changes):
        rule = {} if row["rule"] is None else {"rule": canonical.loads(row["rule"].encode(), what=f"a rule of {path}")}
        changes.append({"site": site, "element": [], **{name: [] for name in given}, **rule})
    change = changes[-1] if changes else {}
    if row["change"] != len(changes) - 1 or change["site"] != site or [n for n in _NUMBERS if n in change] != given:
        raise UnreadableArtifact(f"the rows of trial {row['trial']} in {path} are out of order")
    change["element"].append(row["element"])
    for name in given:
        change[name].append(hex(row[name]))
