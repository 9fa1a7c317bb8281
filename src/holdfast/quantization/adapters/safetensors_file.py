"""The safetensors container, for faults that need the address of every byte: the one strict parser, over memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from holdfast._files import replacing
from holdfast.evidence.containers import safetensors
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.layout import ELEMENTS, Extent

_METADATA = "__metadata__"


def read_header(octets: Octets) -> tuple[dict[str, Extent], dict[str, str]]:
    """Return the stored tensors and the metadata of a whole file (uint8, shape (n,), perhaps memory-mapped).

    Raises:
        UnreadableArtifact: truncated, malformed, or offsets that overlap, leave holes or leave the file.
        UnsupportedVersion: an element type that does not exist.
    """
    header = safetensors.read_header(lambda start, length: octets[start : start + length].tobytes(), len(octets))
    extents = {item.name: Extent(item.dtype.upper(), item.shape, item.length, item.offset) for item in header.slots}
    return extents, dict(header.metadata)


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
