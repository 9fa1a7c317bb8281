"""The bytes of a leaf table (``docs/formats/dataset-commitment.md``): columns behind a header, nothing left over."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from holdfast.data.commitments.element import MAX_NAME, TAG
from holdfast.data.commitments.table import LeafTable, Part, Row
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion

MAGIC = b"HFLEAF01"
_MOST_SETS = 4096  # different lists of field names
_PACKED: WeakKeyDictionary[LeafTable, bytes] = WeakKeyDictionary()  # a table never changes, and is packed often
_HEAD = struct.Struct("<8sQII")


def write_table(table: LeafTable) -> bytes:
    """Return the bytes of ``table``; equal tables give equal bytes."""
    if (packed := _PACKED.get(table)) is None:
        packed = _PACKED[table] = _pack(table)
    return packed


def _pack(table: LeafTable) -> bytes:
    rows = table.rows
    names = sorted({tuple(name for name, _ in row.tags) for row in rows})
    if len(names) > _MOST_SETS:
        raise InvalidConfig(f"samples with {len(names)} different lists of fields", hint=f"at most {_MOST_SETS}")
    number = {item: place for place, item in enumerate(names)}
    keys = [row.key.encode() for row in rows]
    columns = (
        np.cumsum([len(key) for key in keys], dtype="<u8").tobytes(),
        b"".join(keys),
        b"".join(row.digest for row in rows),
        np.array([row.size for row in rows], "<u8").tobytes(),
        np.array([number[tuple(name for name, _ in row.tags)] for row in rows], "<u4").tobytes(),
        b"".join(tag for row in rows for _, tag in row.tags),
    )
    parts = b"".join(_text(part.dataset) + struct.pack("<Q", len(part.rows)) for part in table.parts)
    sets = b"".join(struct.pack("<I", len(item)) + b"".join(map(_text, item)) for item in names)
    return _HEAD.pack(MAGIC, len(rows), len(table.parts), len(names)) + parts + sets + b"".join(columns)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


class _Reader:
    """Takes a byte string apart from the front and never past its end."""

    def __init__(self, data: bytes) -> None:
        self.rest = memoryview(data)

    def take(self, count: int) -> memoryview:
        if count > len(self.rest):
            raise UnreadableArtifact("the leaf table is cut off")
        head, self.rest = self.rest[:count], self.rest[count:]
        return head

    def number(self, kind: str) -> int:
        """Return one unsigned number of the struct code ``kind``."""
        form = struct.Struct(f"<{kind}")
        return int(form.unpack(self.take(form.size))[0])

    def text(self, limit: int = MAX_NAME) -> str:
        length = self.number("I")
        if length > limit:
            raise UnreadableArtifact(f"the leaf table holds a name of {length} bytes")
        return _decode(self.take(length))

    def column(self, kind: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return np.frombuffer(self.take(count * np.dtype(kind).itemsize), kind).astype(np.uint64)


def _decode(data: memoryview) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableArtifact("a name in the leaf table is not UTF-8") from error


def read_table(data: bytes) -> LeafTable:
    """Parse a table; what comes back writes the very same bytes.

    Raises:
        UnsupportedVersion: another version, or no leaf table.
        UnreadableArtifact: cut off, too long, unordered, a key twice, or anything but what :func:`write_table` writes.
    """
    reader = _Reader(data)
    magic, count, parts, sets = _HEAD.unpack(reader.take(_HEAD.size))
    if magic != MAGIC:
        raise UnsupportedVersion("this is no leaf table of version 1")
    if parts > count or sets > min(count, _MOST_SETS):
        raise UnreadableArtifact("the leaf table announces more parts than samples")
    runs = [(reader.text(), reader.number("Q")) for _ in range(parts)]
    names = [tuple(reader.text() for _ in range(reader.number("I"))) for _ in range(sets)]
    rows = _rows(reader, count, names)
    if len(reader.rest) or sum(length for _, length in runs) != count:
        raise UnreadableArtifact("the leaf table holds more, or other samples, than it announces")
    return _same(data, _parts(runs, rows))


def _rows(reader: _Reader, count: int, names: Sequence[tuple[str, ...]]) -> list[Row]:
    ends = reader.column("<u8", count).tolist()
    if any(after < before for before, after in zip([0, *ends], ends, strict=False)):
        raise UnreadableArtifact("the keys of the leaf table overlap")
    keys = reader.take(ends[-1] if ends else 0)
    digests, sizes = bytes(reader.take(32 * count)), reader.column("<u8", count).tolist()
    sets = reader.column("<u4", count).tolist()
    if sets and max(sets) >= len(names):
        raise UnreadableArtifact("a sample of the leaf table has an unknown list of fields")
    rows, start = [], 0
    for place, end in enumerate(ends):
        tags = tuple((name, bytes(reader.take(TAG))) for name in names[sets[place]])
        key, digest = _decode(keys[start:end]), digests[32 * place : 32 * place + 32]
        rows.append(Row(key=key, digest=digest, size=sizes[place], tags=tags))
        start = end
    return rows


def _parts(runs: Sequence[tuple[str, int]], rows: list[Row]) -> LeafTable:
    parts, start = [], 0
    for name, length in runs:
        parts.append(Part(dataset=name, rows=tuple(rows[start : start + length])))
        start += length
    try:
        return LeafTable.of(parts)
    except InvalidConfig as error:
        raise UnreadableArtifact(f"the leaf table is not in order: {error}") from error


def _same(data: bytes, table: LeafTable) -> LeafTable:
    """Writing is the one definition of a valid table: order, uniqueness and names need no second set of rules."""
    if write_table(table) != data:
        raise UnreadableArtifact("the leaf table is not in its canonical form")
    return table
