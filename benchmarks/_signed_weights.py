"""One signed safetensors file of a gibibyte, 16 tensors of 64 MiB, with its manifest and outboard."""

from __future__ import annotations

from pathlib import Path

import torch
from blake3 import blake3
from safetensors.torch import save_file

from holdfast.evidence.containers import safetensors
from holdfast.evidence.model_manifest import FileEntry, ModelManifest, TensorEntry
from holdfast.signing import generate_key, sign_statement
from holdfast.signing.keys import PublicKey
from holdfast.signing.outboards import write_outboards

TENSORS, ROWS, COLUMNS = 16, 4096, 4096
SIZE = TENSORS * ROWS * COLUMNS * 4


def signed_weights(folder: Path) -> tuple[Path, PublicKey]:
    """Write, sign, and return the file and the key to trust."""
    path, key = folder / "weights.safetensors", generate_key()
    make = torch.Generator().manual_seed(0)
    save_file({f"layer{i}": torch.rand(ROWS, COLUMNS, generator=make) for i in range(TENSORS)}, path)
    manifest = write_outboards(path, _manifest(path))
    path.with_name(f"{path.name}.sig2").write_bytes(sign_statement(manifest.to_statement(), key))
    return path, key.public


def _manifest(path: Path) -> ModelManifest:
    data = path.read_bytes()
    slots = safetensors.index(lambda offset, length: data[offset : offset + length], len(data))
    tensors = (
        TensorEntry(path.name, s.name, s.dtype, s.shape, s.offset, s.length, _digest(data, s.offset, s.length))
        for s in slots
    )
    return ModelManifest.of(path.name, [FileEntry(path.name, len(data), "", blake3(data).hexdigest())], tensors)


def _digest(data: bytes, offset: int, length: int) -> str:
    return blake3(memoryview(data)[offset : offset + length]).hexdigest()
