"""Where the tensors of a safetensors file lie, without reading them: the strict index, in torch's words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from holdfast.errors import UnreadableArtifact, UnsafeArtifact
from holdfast.evidence.containers import safetensors

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
        UnsupportedVersion: an element type that does not exist.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            handle = file.fileno()
            slots = safetensors.index(lambda start, length: os.pread(handle, length, start), os.fstat(handle).st_size)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read model file {path}: {error.strerror or error}") from error
    except UnreadableArtifact as error:
        raise UnreadableArtifact(f"{path} is not a whole safetensors file: {error}", hint=error.hint) from error
    return tuple(
        TensorSpan(path, slot.name, _DTYPES.get(slot.dtype.upper()), slot.shape, slot.offset, slot.offset + slot.length)
        for slot in slots
    )
