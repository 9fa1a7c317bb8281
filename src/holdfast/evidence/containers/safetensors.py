"""The safetensors container, strictly: the one parser that everything in Holdfast reads it with.

Eight bytes of header length (little-endian), a JSON header of name -> dtype, shape, data_offsets, then the data,
without holes or overlaps. Nothing is trusted before it is checked against the length of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.containers.slot import MOST, Read, Slot

LONGEST_HEADER = 100_000_000  # bytes, the bound of the format itself
_MOST_SIDES = 64  # as numpy; a product of millions of sides would take hours to work out
_METADATA = "__metadata__"

# what the format calls an element -> its bits
BITS: Mapping[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data: the tensors in the order of their bytes, and the metadata."""

    slots: tuple[Slot, ...]
    metadata: Mapping[str, str]
    start: int  # first byte of the data


def index(read: Read, size: int) -> tuple[Slot, ...]:
    """Return the tensors of a file of ``size`` bytes, in the order of their bytes.

    Raises:
        ArtifactError: see :func:`read_header`.
    """
    return read_header(read, size).slots


def read_header(read: Read, size: int) -> Header:
    """Return the header of a file of ``size`` bytes, of which ``read(offset, length)`` gives any part.

    Raises:
        UnreadableArtifact: truncated, malformed, or offsets that overlap, leave holes or leave the file.
        UnsupportedVersion: an element type that does not exist.
    """
    if size < 8:
        raise UnreadableArtifact("a safetensors file has at least 8 bytes")
    length = int.from_bytes(read(0, 8), "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise UnreadableArtifact(f"the header claims {length} bytes, the file has {size}", hint="is it whole?")
    header, start = _json(read(8, length)), 8 + length
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableArtifact("the metadata of a safetensors file maps text to text")
    slots = sorted((_slot(*item, start) for item in header.items()), key=lambda slot: (slot.offset, slot.length))
    _require_exact_cover(slots, start, size)
    return Header(tuple(slots), metadata, start)


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableArtifact(f"the header of the safetensors file is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnreadableArtifact("the header of a safetensors file is an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    for name in found:
        name.encode()  # a lone surrogate, which an escape can spell, has no bytes to hash
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _slot(name: str, entry: object, start: int) -> Slot:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnreadableArtifact(f"{name} is not described by dtype, shape and data_offsets")
    shape, offsets = _naturals(name, entry["shape"]), _naturals(name, entry["data_offsets"])
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in BITS:
        raise UnsupportedVersion(f"{name} has elements of unknown type {entry['dtype']!r}")
    if len(shape) > _MOST_SIDES:
        raise UnreadableArtifact(f"{name} has {len(shape)} dimensions, more than {_MOST_SIDES}")
    bits = math.prod(shape) * BITS[entry["dtype"]]
    bounded = max(shape, default=0) < MOST  # an empty tensor may claim any other side
    if len(offsets) != 2 or bits % 8 or offsets[1] - offsets[0] != bits // 8 or not bounded:
        raise UnreadableArtifact(f"{name} of shape {list(shape)} does not take the bytes {list(offsets)}")
    return Slot(name, entry["dtype"].lower(), shape, start + offsets[0], bits // 8)


def _naturals(name: str, value: object) -> tuple[int, ...]:
    # a bool is an int to Python, not to the format
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        raise UnreadableArtifact(f"{name} has a shape or offset that is no list of natural numbers")
    return tuple(value)


def _require_exact_cover(slots: list[Slot], start: int, end: int) -> None:
    for slot in slots:
        if slot.offset != start or slot.offset + slot.length > end:
            raise UnreadableArtifact(f"{slot.name} overlaps another tensor, leaves a hole or leaves the file")
        start += slot.length
    if start != end:
        raise UnreadableArtifact(f"{end - start} bytes of the file belong to no tensor", hint="is it whole?")
