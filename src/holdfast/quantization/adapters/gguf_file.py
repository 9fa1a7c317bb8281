"""The GGUF container: read over a memory map by the one strict parser, and written."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import replacing
from holdfast.errors import UnsupportedFormat
from holdfast.evidence.containers import gguf
from holdfast.evidence.containers.gguf import ALIGNMENT, MAGIC, TYPES, Value, alignment
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.layout import Extent

__all__ = ["MAGIC", "TYPES", "Header", "Value", "read_header", "write_gguf"]
_STRING = 8


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data."""

    version: int
    metadata: Mapping[str, Value]
    raw_metadata: bytes  # as stored, to be written again bit for bit
    tensors: Mapping[str, Extent]  # shape: slowest side first


def read_header(octets: Octets) -> Header:
    """Return the header of a whole file (uint8, shape (n,), perhaps memory-mapped).

    Raises:
        ArtifactError: see :func:`holdfast.evidence.containers.gguf.read_header`.
    """
    head = gguf.read_header(lambda start, length: octets[start : start + length].tobytes(), len(octets))
    tensors = {item.name: Extent(item.dtype.upper(), item.shape, item.length, item.offset) for item in head.slots}
    return Header(head.version, head.metadata, head.raw_metadata, tensors)


def write_gguf(
    path: Path, tensors: Mapping[str, tuple[Extent, Octets]], metadata: Mapping[str, Value] | Header | None = None
) -> None:
    """Write a file of version 3, tensors in the order given; a :class:`Header` lends its metadata as they were."""
    if isinstance(metadata, Header):
        pairs, raw, step = len(metadata.metadata), metadata.raw_metadata, alignment(metadata.metadata)
    else:
        chosen = metadata or {}
        pairs, raw, step = len(chosen), b"".join(_pair(*item) for item in chosen.items()), alignment(chosen)
    head, place = MAGIC + struct.pack("<IQQ", 3, len(tensors), pairs) + raw, 0
    for name, (item, _) in tensors.items():
        sides = struct.pack(f"<I{len(item.shape)}Q", len(item.shape), *reversed(item.shape))
        head += _text(name) + sides + struct.pack("<IQ", TYPES[item.dtype][0], place)
        place += -(-item.nbytes // step) * step
    with replacing(path) as temporary, temporary.open("wb") as handle:
        handle.write(head + bytes(-len(head) % step))
        for item, octets in tensors.values():
            handle.write(octets.tobytes() + bytes(-item.nbytes % step))


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, value: Value) -> bytes:
    if key == ALIGNMENT:
        return _text(key) + struct.pack("<II", 4, value)
    if isinstance(value, bool):
        return _text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return _text(key) + struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return _text(key) + struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", _STRING) + _text(value)
    raise UnsupportedFormat(f"metadata {key!r} is a list", hint="hand over the header of a file to keep its lists")
