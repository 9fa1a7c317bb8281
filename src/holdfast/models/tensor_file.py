"""Where the tensors of a safetensors file lie, without reading them.

The library that owns the format checks the header (bounds, gaps, overlaps, shapes); what is added here are the byte
ranges, which it keeps to itself and which faults and ranged checks need.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact, UnsafeArtifact

INDEX_SUFFIX = ".safetensors.index.json"
_DTYPES = {
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor of a file: ``stop - start`` bytes from byte ``start`` of the file, little-endian, row-major."""

    file: Path
    name: str
    dtype: torch.dtype | None  # None for a type that torch has no plain element for
    shape: tuple[int, ...]
    start: int
    stop: int


def weight_files(path: Path | str) -> tuple[Path, ...]:
    """Return the safetensors files of a model: the file itself, or all of a folder, sorted by name.

    Raises:
        UnreadableArtifact: there is none.
        UnsafeArtifact: a file of another kind.
    """
    path = Path(path)
    if path.is_dir():
        found = tuple(sorted(path.glob("*.safetensors")))
        if not found:
            raise UnreadableArtifact(f"{path} holds no .safetensors file", hint="convert the model to safetensors")
        return found
    if path.suffix != ".safetensors":
        raise UnsafeArtifact(f"{path.name} is no safetensors file", hint="only that format is changed in place")
    return (path,)


def tensor_spans(path: Path | str) -> tuple[TensorSpan, ...]:
    """Return the tensors of one safetensors file in the order of their bytes.

    Raises:
        UnreadableArtifact: missing, truncated, or a header that contradicts the file.
    """
    path = Path(path)
    header, begin = _header(path)
    spans = [_span(path, name, entry, begin) for name, entry in header.items() if name != "__metadata__"]
    return tuple(sorted(spans, key=lambda span: (span.start, span.stop)))


def _header(path: Path) -> tuple[dict[str, dict[str, list[int] | str]], int]:
    length = read_bytes(path, "model file", prefix=8)
    try:
        with safe_open(path, framework="pt"):  # reads the header only, and refuses one that does not fit the file
            (size,) = struct.unpack("<Q", length)
            return json.loads(read_bytes(path, "model file", prefix=8 + size)[8:]), 8 + size
    except (SafetensorError, struct.error, ValueError) as error:
        raise UnreadableArtifact(f"{path} is not a whole safetensors file: {error}") from error


def _span(path: Path, name: str, entry: dict[str, list[int] | str], begin: int) -> TensorSpan:
    start, stop = (begin + int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    return TensorSpan(path, name, _DTYPES.get(str(entry["dtype"])), shape, start, stop)
