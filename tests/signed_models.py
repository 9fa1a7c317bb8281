"""Signed models for the tests of verification on load."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from blake3 import blake3
from safetensors.torch import save_file
from torch import Tensor

from holdfast.evidence.containers import index_for
from holdfast.evidence.model_manifest import FileEntry, ModelManifest, TensorEntry
from holdfast.signing import generate_key, sign_statement
from holdfast.signing.outboards import write_outboards

KEY = generate_key()
KIB = 1 << 10


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Tensors of several types and sizes: from nothing to over a megabyte."""
    make = torch.Generator().manual_seed(seed)
    return {
        "big": torch.randn(1024, 300, generator=make),
        "half": torch.randn(64, 48, generator=make).bfloat16(),
        "twin.a": torch.randn(128, 32, generator=make),
        "twin.b": torch.randn(128, 32, generator=make),
        "bytes": torch.randint(0, 256, (777,), generator=make, dtype=torch.uint8),
        "empty": torch.zeros(0, 4),
        "scalar": torch.randn((), generator=make),
        "mask": torch.rand(5, 7, generator=make) < 0.5,
    }


def manifest_for(model: Path) -> ModelManifest:
    """The manifest of a folder or file, by the plainest means."""
    single = model.is_file()
    paths = [model] if single else sorted(p for p in model.rglob("*") if p.is_file() and "model.sig" not in p.name)
    files, entries = [], []
    for path in paths:
        name, data = path.name if single else path.relative_to(model).as_posix(), path.read_bytes()
        if name.startswith("model.outboard/"):
            continue
        files.append(FileEntry(name, len(data), hashlib.sha256(data).hexdigest(), blake3(data).hexdigest()))
        if index := index_for(name):
            for slot in index(lambda offset, length, data=data: data[offset : offset + length], len(data)):
                digest = blake3(data[slot.offset : slot.offset + slot.length]).hexdigest()
                entries.append(TensorEntry(name, slot.name, slot.dtype, slot.shape, slot.offset, slot.length, digest))
    return ModelManifest(model.name, tuple(files), tuple(sorted(entries, key=lambda e: (e.file, e.name))))


def sign_manifest(model: Path, manifest: ModelManifest | None = None, *, outboards: int = 0) -> ModelManifest:
    """Write the signed manifest where it lies by default; with outboards of that group size if it is not 0."""
    manifest = manifest or manifest_for(model)
    if outboards:
        manifest = write_outboards(model, manifest, group=outboards, least=0)
    place = model / "model.sig2" if model.is_dir() else model.with_name(f"{model.name}.sig2")
    place.write_bytes(sign_statement(manifest.to_statement(), KEY))
    return manifest


def with_tensor(manifest: ModelManifest, name: str, **change: object) -> ModelManifest:
    """``manifest`` with fields of one tensor replaced."""
    changed = tuple(replace(t, **change) if t.name == name else t for t in manifest.tensors)
    return replace(manifest, tensors=changed)


def make_model(folder: Path, weights: Mapping[str, Tensor] | None = None, *, outboards: int = 0) -> Path:
    """A signed folder with weights and a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(weights if weights is not None else tensors()), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "toy"}')
    sign_manifest(folder, outboards=outboards)
    return folder
