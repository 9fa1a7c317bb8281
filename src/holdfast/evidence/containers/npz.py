"""The NPZ container, strictly: a ZIP archive of ``.npy`` members, of which the stored (not deflated) ones are slots.

ZIP: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14-16 (its end, ZIP64). An
archive has two lists of its members; only one in which both agree is read, and nothing may overlap. The ``.npy``
header (NumPy, NEP 1) is a Python literal; here a pattern of exactly three keys reads it, and nothing evaluates it.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from holdfast.errors import UnreadableArtifact, UnsafeArtifact, UnsupportedVersion
from holdfast.evidence.containers.slot import MOST, Read, Slot

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_ESCAPE16, _ESCAPE32 = 0xFFFF, 0xFFFFFFFF  # the value stands in the ZIP64 record instead
_ZIP64_FIELD = 1
_STORED, _DEFLATED = 0, 8
_UTF8, _KNOWN_FLAGS = 1 << 11, 1 << 11 | 6  # 2 and 4 say how hard the compressor tried
_LONGEST_DIRECTORY = 64 << 20  # bytes
_MOST_MEMBERS = 1 << 18
_LONGEST_NPY_HEADER = 1 << 16
_NPY = re.compile(
    r"\{\s*'descr'\s*:\s*'(?P<descr>[^'\\]{1,32})'\s*,\s*'fortran_order'\s*:\s*(?P<fortran>True|False)\s*,"
    r"\s*'shape'\s*:\s*\((?P<shape>[0-9 ,]{0,1024})\)\s*,?\s*\}\s*"
)
_SHAPE = re.compile(r"|\d{1,16},|\d{1,16}(?:, ?\d{1,16}){1,63},?")
_DTYPES = {
    "b1": "bool", "i1": "i8", "i2": "i16", "i4": "i32", "i8": "i64", "u1": "u8", "u2": "u16", "u4": "u32", "u8": "u64",
    "f2": "f16", "f4": "f32", "f8": "f64", "c8": "c64", "c16": "c128",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive: ``start`` and ``stored`` (bytes) say where its data lie, as they are stored."""

    name: str
    method: int  # 0 stored, 8 deflated
    header: int  # first byte of its local header
    start: int
    stored: int
    size: int  # bytes, unpacked

    @property
    def packed(self) -> bool:
        """Whether its bytes are compressed, so that no range of the file is a range of the tensor."""
        return self.method != _STORED


def index(read: Read, size: int) -> tuple[Slot, ...]:
    """Return the stored arrays of an archive of ``size`` bytes, in the order of their bytes; names lose ``.npy``.

    Deflated members are no slots: :func:`members` names them, and who must verify ranges refuses them by name.

    Raises:
        UnreadableArtifact: truncated, malformed, contradicting itself, or with a member twice.
        UnsafeArtifact: an array of Python objects, which is a pickle.
        UnsupportedVersion: encryption, another compression, arrays of records or text, or in column order.
    """
    return tuple(_slot(read, item) for item in members(read, size) if not item.packed and item.name.endswith(".npy"))


def members(read: Read, size: int) -> tuple[Member, ...]:
    """Return all members of the archive, in the order of their bytes, after checking both lists of them.

    Raises:
        UnreadableArtifact, UnsupportedVersion: see :func:`index`.
    """
    count, length, start = list_of_members(read, size)
    found = _directory(read(start, length), count)
    if len({item.name for item in found}) != len(found):
        raise UnreadableArtifact("the archive holds two members of one name")
    reached, placed = 0, []
    for item in sorted(found, key=lambda item: item.header):
        placed.append(_placed(read, item, reached, start))
        reached = placed[-1].start + placed[-1].stored
    if reached != start:
        raise UnreadableArtifact(f"{start - reached} bytes of the archive belong to no member")
    return tuple(placed)


def list_of_members(read: Read, size: int) -> tuple[int, int, int]:
    """Return count, length and start of the central directory; the archive may end in nothing but its end record.

    Raises:
        UnreadableArtifact: it ends otherwise, or its list does not lie right before the end record.
    """
    if size < 22:
        raise UnreadableArtifact("a ZIP archive has at least 22 bytes", hint="is it whole?")
    magic, disk, first, here, count, length, start, comment = struct.unpack("<4s4H2IH", read(size - 22, 22))
    if magic != _END or disk or first or here != count or comment:
        raise UnreadableArtifact("the file does not end as a plain ZIP archive does", hint="is it whole?")
    end = size - 22
    if count == _ESCAPE16 or _ESCAPE32 in (length, start) or (end >= 20 and read(end - 20, 4) == _LOCATOR64):
        count, length, start, end = _end64(read, end)
    if start + length != end or length > _LONGEST_DIRECTORY or count > _MOST_MEMBERS or count * 46 > length:
        raise UnreadableArtifact("the list of members of the archive does not lie where it should")
    return count, length, start


def _end64(read: Read, end: int) -> tuple[int, int, int, int]:
    if end < 76:
        raise UnreadableArtifact("the ZIP64 record of the archive is missing")
    magic, disk, place, disks = struct.unpack("<4sIQI", read(end - 20, 20))
    if magic != _LOCATOR64 or disk or disks != 1 or place != end - 76:
        raise UnreadableArtifact("the ZIP64 record of the archive is malformed")
    fields = struct.unpack("<4sQHH2I4Q", read(place, 56))
    magic, record, _, _, disk, first, here, count, length, start = fields
    if magic != _END64 or record != 44 or disk or first or here != count:
        raise UnreadableArtifact("the ZIP64 record of the archive is malformed")
    return count, length, start, place


def _directory(data: bytes, count: int) -> list[Member]:
    found, place = [], 0
    for _ in range(count):
        if place + 46 > len(data):
            raise UnreadableArtifact("the list of members of the archive is cut short")
        fields = struct.unpack("<4s6H3I5H2I", data[place : place + 46])
        name, extra, comment = fields[10:13]
        if fields[0] != _CENTRAL or comment or fields[13] or place + 46 + name + extra > len(data):
            raise UnreadableArtifact("an entry in the list of members of the archive is malformed")
        text = data[place + 46 : place + 46 + name]
        found.append(_member(fields, text, data[place + 46 + name : place + 46 + name + extra]))
        place += 46 + name + extra
    if place != len(data):
        raise UnreadableArtifact("the list of members of the archive holds more than it says")
    return found


def _member(fields: tuple[int, ...], text: bytes, extra: bytes) -> Member:
    flags, method, stored, size, header = fields[3], fields[4], fields[8], fields[9], fields[16]
    name = _name(text, flags)
    size, stored, header = _wide(extra, (size, stored, header), name)
    if method not in (_STORED, _DEFLATED):
        raise UnsupportedVersion(f"{name} is packed by method {method}", hint="only stored members can be verified")
    if method == _STORED and stored != size:
        raise UnreadableArtifact(f"{name} is stored, and yet of two lengths")
    return Member(name, method, header, 0, stored, size)


def _name(text: bytes, flags: int) -> str:
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedVersion("a member of the archive is encrypted or streamed", hint="save it with numpy.savez")
    try:
        name = text.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise UnreadableArtifact(f"the name {text!r} in the archive is no text") from error
    if not name or "\0" in name or "\\" in name or name.endswith("/") or ".." in name.split("/") or name[0] == "/":
        raise UnreadableArtifact(f"the archive holds a member called {name!r}")
    return name


def _wide(extra: bytes, values: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return ``values`` with those replaced that stand in the ZIP64 field, in its order."""
    wide, place = b"", 0
    while place < len(extra):
        kind, length = struct.unpack("<HH", extra[place : place + 4]) if place + 4 <= len(extra) else (0, len(extra))
        if place + 4 + length > len(extra) or (kind == _ZIP64_FIELD and wide):
            raise UnreadableArtifact(f"the extra field of {name} is malformed")
        wide = extra[place + 4 : place + 4 + length] if kind == _ZIP64_FIELD else wide
        place += 4 + length
    escaped = [place for place, value in enumerate(values) if value == _ESCAPE32]
    if len(wide) < 8 * len(escaped):
        raise UnreadableArtifact(f"the ZIP64 field of {name} is missing or cut short")
    result = list(values)
    for turn, place in enumerate(escaped):
        result[place] = int.from_bytes(wide[8 * turn : 8 * turn + 8], "little")
    return tuple(result)


def _placed(read: Read, item: Member, reached: int, end: int) -> Member:
    """Return ``item`` with the start of its data, after comparing its local header with the list of members."""
    if item.header != reached or item.header + 30 > end:
        raise UnreadableArtifact(f"{item.name} overlaps another member, leaves a hole or leaves the archive")
    fields = struct.unpack("<4s5H3I2H", read(item.header, 30))
    start = item.header + 30 + fields[9] + fields[10]
    if fields[0] != _LOCAL or start + item.stored > end:
        raise UnreadableArtifact(f"{item.name} has no header, or leaves the archive")
    rest = read(item.header + 30, fields[9] + fields[10])
    size, stored = _wide(rest[fields[9] :], (fields[8], fields[7]), item.name)
    name = _name(rest[: fields[9]], fields[2])
    if (name, fields[3], size, stored) != (item.name, item.method, item.size, item.stored):
        raise UnreadableArtifact(f"the archive describes {item.name} in two ways")
    return Member(item.name, item.method, item.header, start, item.stored, item.size)


def _slot(read: Read, item: Member) -> Slot:
    front = read(item.start, min(12, item.size))
    if len(front) < 12 or front[:6] != b"\x93NUMPY" or front[6] not in (1, 2, 3) or front[7]:
        raise UnreadableArtifact(f"{item.name} is no .npy file of version 1 to 3")
    width = 2 if front[6] == 1 else 4
    length = int.from_bytes(front[8 : 8 + width], "little")
    data = item.start + 8 + width + length
    if length > _LONGEST_NPY_HEADER or data > item.start + item.size:
        raise UnreadableArtifact(f"the header of {item.name} is longer than its file")
    dtype, shape, bytes_each = _array(read(item.start + 8 + width, length), item.name)
    size = math.prod(shape) * bytes_each
    if data + size != item.start + item.size:
        raise UnreadableArtifact(f"{item.name} of shape {list(shape)} does not take {item.size} bytes")
    return Slot(item.name.removesuffix(".npy"), dtype, shape, data, size)


def _array(header: bytes, name: str) -> tuple[str, tuple[int, ...], int]:
    match = _NPY.fullmatch(header.decode("latin-1"))
    if match is None:
        raise UnsupportedVersion(f"{name} is no plain array", hint="records and text cannot be read as tensors")
    order, kind = match["descr"][0], match["descr"][1:]
    if kind[:1] == "O":
        raise UnsafeArtifact(f"{name} holds Python objects, which run code when opened", hint="save plain arrays")
    if kind not in _DTYPES or order not in "<|" or (order == "|") != (kind[1:] == "1"):
        raise UnsupportedVersion(f"{name} has elements of type {match['descr']!r}", hint="save little-endian numbers")
    sides = match["shape"].strip()
    if not _SHAPE.fullmatch(sides):
        raise UnreadableArtifact(f"{name} has the shape ({sides})")
    shape = tuple(int(side) for side in sides.split(",") if side.strip())
    if max(shape, default=0) >= MOST:
        raise UnreadableArtifact(f"{name} has the shape ({sides})")
    if match["fortran"] == "True" and sum(side != 1 for side in shape) > 1:
        raise UnsupportedVersion(f"{name} is stored in column order", hint="save numpy.ascontiguousarray of it")
    return _DTYPES[kind], shape, int(kind[1:])
