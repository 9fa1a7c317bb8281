"""The GGUF container, versions 2 and 3, little-endian, strictly.

Magic, version, counts; key-value metadata; one description per tensor (name, sides with the fastest first, type, offset
from the start of the data); padding to ``general.alignment``; data. Every count is checked against the bytes that are
left before anything is read, so a lying header costs nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.containers.slot import MOST, Read, Slot

MAGIC = b"GGUF"
ALIGNMENT = "general.alignment"
Value = str | int | float | bool | list["Value"]
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEEPEST = 4  # arrays of arrays
_MOST_SIDES = 4
_MOST_VALUES = 2**24  # in one list of the metadata; the largest vocabularies have 2**18 words
_BLOCK = 1 << 16  # bytes read at a time

# type: number in the file, elements per block, bytes per block
TYPES: Mapping[str, tuple[int, int, int]] = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q8_1": (9, 32, 40), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "Q8_K": (15, 256, 292),
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98), "IQ1_S": (19, 256, 50),
    "IQ4_NL": (20, 32, 18), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82), "IQ4_XS": (23, 256, 136),
    "I8": (24, 1, 1), "I16": (25, 1, 2), "I32": (26, 1, 4), "I64": (27, 1, 8), "F64": (28, 1, 8),
    "IQ1_M": (29, 256, 56), "BF16": (30, 1, 2), "TQ1_0": (34, 256, 54), "TQ2_0": (35, 256, 66), "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
}  # fmt: skip
_BY_NUMBER = {number: (name, block, size) for name, (number, block, size) in TYPES.items()}


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data; ``slots`` in the order of the descriptions, ``shape`` slowest side first."""

    version: int
    metadata: Mapping[str, Value]
    raw_metadata: bytes  # as stored, to be written again bit for bit
    slots: tuple[Slot, ...]


class _Cursor:
    """Reads numbers and text from the front of a file, never beyond its end."""

    def __init__(self, read: Read, size: int) -> None:
        self.place, self.size = 0, size
        self._read = read
        self._block, self._start = b"", 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.place:
            raise UnreadableArtifact(f"the GGUF header runs beyond the file at byte {self.place}", hint="is it whole?")
        first = self.place - self._start
        if first + count > len(self._block):
            self._block = self._read(self.place, min(max(count, _BLOCK), self.size - self.place))
            self._start, first = self.place, 0
        self.place += count
        return self._block[first : first + count]

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def count(self, what: str, least: int) -> int:
        """Return a count of things of at least ``least`` bytes each, which must fit the rest of the file."""
        count = self.number("<Q")
        if count * least > self.size - self.place:
            raise UnreadableArtifact(f"the GGUF header claims {count} {what}, more than the file could hold")
        return count

    def text(self) -> str:
        try:
            return self.take(self.count("characters", 1)).decode()
        except UnicodeDecodeError as error:
            raise UnreadableArtifact(f"a name in the GGUF header is no UTF-8 at byte {self.place}") from error

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            item: Value = struct.unpack(_SCALARS[kind], self.take(struct.calcsize(_SCALARS[kind])))[0]
            return item
        if kind != _ARRAY or depth == _DEEPEST:
            raise UnreadableArtifact(f"the GGUF metadata holds a value of unknown type {kind}")
        inner = self.number("<I")
        least = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8
        count = self.count("values", least)
        if count > _MOST_VALUES:
            raise UnreadableArtifact(f"the GGUF metadata holds a list of {count} values")
        return [self.value(inner, depth + 1) for _ in range(count)]


def index(read: Read, size: int) -> tuple[Slot, ...]:
    """Return the tensors of a file of ``size`` bytes, in the order of their bytes.

    Raises:
        ArtifactError: see :func:`read_header`.
    """
    return tuple(sorted(read_header(read, size).slots, key=lambda slot: (slot.offset, slot.length)))


def read_header(read: Read, size: int) -> Header:
    """Return the header of a file of ``size`` bytes, of which ``read(offset, length)`` gives any part.

    Raises:
        UnreadableArtifact: truncated or malformed; counts, sides or offsets that the file cannot hold, or overlaps.
        UnsupportedVersion: another version, big-endian, or a tensor of a type that no known version has.
    """
    cursor = _Cursor(read, size)
    if cursor.take(4) != MAGIC:
        raise UnreadableArtifact("the file does not begin with GGUF")
    version = cursor.number("<I")
    if version not in (2, 3):
        why = "is big-endian" if version and not version & 0xFFFF else f"has version {version}"
        raise UnsupportedVersion(f"the GGUF file {why}", hint="versions 2 and 3, little-endian, are known")
    tensors, pairs = cursor.count("tensors", 24), cursor.count("metadata pairs", 13)
    first = cursor.place
    metadata = _metadata(cursor, pairs)
    length = cursor.place - first
    described = [_description(cursor) for _ in range(tensors)]
    if len({slot.name for slot in described}) != tensors:
        raise UnreadableArtifact("the GGUF file describes one tensor twice")
    slots = _placed(described, cursor.place, alignment(metadata), size)
    return Header(version, metadata, read(first, length), slots)


def _metadata(cursor: _Cursor, pairs: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for _ in range(pairs):
        key = cursor.text()
        if key in found:
            raise UnreadableArtifact(f"the GGUF metadata has {key!r} twice")
        found[key] = cursor.value(cursor.number("<I"))
    return found


def alignment(metadata: Mapping[str, Value]) -> int:
    """Return the distance in bytes that tensors keep, a power of two."""
    value = metadata.get(ALIGNMENT, 32)
    if type(value) is not int or value < 1 or value & (value - 1) or value > 2**20:
        raise UnreadableArtifact(f"{ALIGNMENT} is {value!r}, not a power of two up to a million")
    return value


def _description(cursor: _Cursor) -> Slot:
    """Return one tensor, whose offset still counts from the start of the data."""
    name, sides = cursor.text(), cursor.number("<I")
    if not 1 <= sides <= _MOST_SIDES:
        raise UnreadableArtifact(f"{name} has {sides} dimensions", hint=f"GGUF has 1 to {_MOST_SIDES}")
    shape = tuple(cursor.number("<Q") for _ in range(sides))[::-1]
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    if kind not in _BY_NUMBER:
        raise UnsupportedVersion(f"{name} is of GGUF type {kind}, unknown here", hint="is the file from the future?")
    dtype, block, size = _BY_NUMBER[kind]
    if shape[-1] % block:
        raise UnreadableArtifact(f"{name} has rows of {shape[-1]}, {dtype} comes in blocks of {block}")
    return Slot(name, dtype.lower(), shape, offset, math.prod(shape) // block * size)


def _placed(described: list[Slot], end: int, step: int, length: int) -> tuple[Slot, ...]:
    base = -(-end // step) * step
    reached = base
    found: dict[str, Slot] = {}
    for slot in sorted(described, key=lambda slot: (slot.offset, slot.length)):
        start = base + slot.offset
        if slot.offset % step or start < reached or start + slot.length > length or max(slot.shape) >= MOST:
            raise UnreadableArtifact(f"{slot.name} overlaps another tensor, is not aligned or leaves the file")
        found[slot.name] = Slot(slot.name, slot.dtype, slot.shape, start, slot.length)
        reached = start + slot.length
    return tuple(found[slot.name] for slot in described)
