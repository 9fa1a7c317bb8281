"""Rows of Arrow tables as fields: each value keeps the type it is stored in (extra ``data``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from holdfast._extras import extra
from holdfast.data.commitments.values import Value
from holdfast.errors import InvalidConfig, UnreadableArtifact


def pyarrow(part: str = "") -> Any:
    """Return pyarrow, or a module of it.

    Raises:
        MissingExtra: it is not installed.
    """
    return extra("pyarrow" + part, name="data", needs="reading Parquet and Arrow files needs pyarrow")


def cell(kind: Any, value: Any) -> Any:
    """Return a cell of Arrow type ``kind`` so that its type is kept: an int32 is not an int64.

    Raises:
        InvalidConfig: a type without an encoding.
    """
    types = pyarrow(".types")
    if value is None:
        return None
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()).type(value)
    if types.is_string(kind) or types.is_large_string(kind):
        return str(value)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return bytes(value)
    return _composite(types, kind, value)


def _composite(types: Any, kind: Any, value: Any) -> Any:
    if types.is_struct(kind):
        return {kind[place].name: cell(kind[place].type, value[kind[place].name]) for place in range(kind.num_fields)}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [cell(kind.value_type, item) for item in value]
    if types.is_map(kind):
        return [[cell(kind.key_type, key), cell(kind.item_type, item)] for key, item in value]
    if types.is_dictionary(kind):
        return cell(kind.value_type, value)
    if types.is_temporal(kind) or types.is_decimal(kind):
        return Value(str(kind), (), str(value).encode())
    raise InvalidConfig(f"a column of type {kind} has no encoding")


def _plain(column: Any) -> Any:
    """Times become the whole numbers they are stored as: Python's own types would drop nanoseconds and zones."""
    types, kind = pyarrow(".types"), column.type
    if not types.is_temporal(kind):
        return column
    if kind.bit_width not in (32, 64):
        raise InvalidConfig(f"a column of type {kind} has no encoding")
    return column.cast(pyarrow().int32() if kind.bit_width == 32 else pyarrow().int64())


def table_rows(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow table or record batch as fields; values are private copies."""
    names = table.column_names if hasattr(table, "column_names") else table.schema.names
    if len(set(names)) != len(names):
        raise UnreadableArtifact("two columns have one name")
    kinds = [table.schema.field(place).type for place in range(len(names))]
    columns = [_plain(table.column(place)).to_pylist() for place in range(len(names))]
    for place in range(table.num_rows):
        yield {name: cell(kind, column[place]) for name, kind, column in zip(names, kinds, columns, strict=True)}


def is_hugging_face(dataset: object) -> bool:
    """Whether ``dataset`` is one of the ``datasets`` library, found without importing it."""
    return type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "with_format")


def stored_rows(dataset: Any, indices: Sequence[int]) -> Any:
    """Return rows of a Hugging Face dataset as an Arrow table in private memory, not decoded.

    An image is its encoded bytes and its path. The copy matters: the dataset itself is a mapped file.

    Raises:
        InvalidConfig: an image, sound or the like is not in the rows, which only say where it lies.
    """
    table = dataset.with_format("arrow")[list(indices)]
    rows = table.take(pyarrow().array(range(table.num_rows)))
    for name in rows.column_names:
        for chunk in rows.column(name).chunks:
            _require_contents(chunk, name)
    return rows


def _require_contents(array: Any, column: str) -> None:
    """Refuse ``{bytes: null, path: "cat.png"}`` at any depth: decoding would read a file that nobody committed to."""
    types, compute = pyarrow(".types"), pyarrow(".compute")
    kind = array.type
    if isinstance(kind, pyarrow().BaseExtensionType):
        _require_contents(array.storage, column)
    elif types.is_struct(kind):
        parts = {kind[place].name: part for place, part in enumerate(array.flatten())}
        if {"bytes", "path"} <= parts.keys():
            absent = compute.and_(compute.is_null(parts["bytes"]), compute.is_valid(parts["path"]))
            if compute.any(absent).as_py():
                raise InvalidConfig(
                    f"the column {column!r} names files and does not hold them", hint="save_to_disk puts them in"
                )
        for part in parts.values():
            _require_contents(part, column)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        _require_contents(array.flatten(), column)
