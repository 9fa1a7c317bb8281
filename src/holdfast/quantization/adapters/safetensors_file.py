"""The safetensors container: an own, strict parser, because faults need the address of every byte.

Eight bytes of header length (little-endian), a JSON header of name -> dtype, shape, data_offsets, then the data,
without holes or overlaps. Nothing is trusted before it is checked against the length of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast._files import replacing
from holdfast.errors import UnreadableArtifact, UnsupportedFormat
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.layout import ELEMENTS, Extent

_LONGEST_HEADER = 100_000_000  # bytes, the bound of the format itself
_METADATA = "__metadata__"


def read_header(octets: Octets) -> tuple[dict[str, Extent], dict[str, str]]:
    """Return the stored tensors and the metadata of a whole file (uint8, shape (n,), perhaps memory-mapped).

    Raises:
        UnreadableArtifact: truncated, malformed, or offsets that overlap, leave holes or leave the file.
        UnsupportedFormat: an element type that does not exist.
    """
    if len(octets) < 8:
        raise UnreadableArtifact("a safetensors file has at least 8 bytes")
    length = int.from_bytes(octets[:8].tobytes(), "little")
    if length > min(len(octets) - 8, _LONGEST_HEADER):
        raise UnreadableArtifact(f"the header claims {length} bytes, the file has {len(octets)}", hint="is it whole?")
    header = _json(octets[8 : 8 + length].tobytes())
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableArtifact("the metadata of a safetensors file maps text to text")
    extents = {name: _extent(name, entry, 8 + length) for name, entry in header.items()}
    _require_exact_cover(extents, 8 + length, len(octets))
    return extents, metadata


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableArtifact(f"the header of the safetensors file is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnreadableArtifact("the header of a safetensors file is an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _extent(name: str, entry: object, base: int) -> Extent:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnreadableArtifact(f"{name} is not described by dtype, shape and data_offsets")
    shape, offsets = _naturals(name, entry["shape"]), _naturals(name, entry["data_offsets"])
    if entry["dtype"] not in ELEMENTS:
        raise UnsupportedFormat(f"{name} has elements of unknown type {entry['dtype']!r}")
    bits = math.prod(shape) * ELEMENTS[entry["dtype"]][0]
    if len(offsets) != 2 or bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise UnreadableArtifact(f"{name} of shape {list(shape)} does not take the bytes {list(offsets)}")
    return Extent(entry["dtype"], shape, bits // 8, base + offsets[0])


def _naturals(name: str, value: object) -> tuple[int, ...]:
    # a bool is an int to Python, not to the format
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        raise UnreadableArtifact(f"{name} has a shape or offset that is no list of natural numbers")
    return tuple(value)


def _require_exact_cover(extents: Mapping[str, Extent], start: int, end: int) -> None:
    for name, item in sorted(extents.items(), key=lambda pair: (pair[1].start, pair[1].nbytes)):
        if item.start != start or item.start + item.nbytes > end:
            raise UnreadableArtifact(f"{name} overlaps another tensor, leaves a hole or leaves the file")
        start += item.nbytes
    if start != end:
        raise UnreadableArtifact(f"{end - start} bytes of the file belong to no tensor", hint="is it whole?")


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[Extent, Octets]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write stored tensors; the order is the format's own: widest elements first, then by name."""
    order = sorted(tensors, key=lambda name: (-ELEMENTS[tensors[name][0].dtype][0], name))
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        item = tensors[name][0]
        offsets = [place, place + item.nbytes]
        header[name] = {"dtype": item.dtype, "shape": list(item.shape), "data_offsets": offsets}
        place += item.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            handle.write(tensors[name][1].tobytes())
