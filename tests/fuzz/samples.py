"""Small good things for fuzzers to damage: containers, and a model of several files."""

from __future__ import annotations

import io
import struct

import numpy as np
import torch
from safetensors.torch import save

from .damage import Files


def safetensors_sample() -> bytes:
    """Tensors of six types, one of them empty and one a number, and metadata."""
    make = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(6, 4, generator=make),
        "b": torch.randn(4, 6, generator=make),
        "half": torch.randn(8, generator=make).bfloat16(),
        "mask": torch.rand(5, generator=make) < 0.5,
        "empty": torch.zeros(0, 3),
        "scalar": torch.randn((), generator=make, dtype=torch.float64),
    }
    return save(tensors, metadata={"format": "pt", "note": "a toy"})


def gguf_sample() -> bytes:
    """Metadata of several kinds, and three tensors, one in blocks."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = [
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("general.name") + struct.pack("<I", 8) + text("toy"),
        text("words") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
        text("deep") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, 2, 3),
        text("ratio") + struct.pack("<Id", 12, 0.5),
    ]
    described = [("w", (4, 3), 0, 0), ("q", (32, 2), 8, 64), ("bias", (3,), 1, 160)]
    tensors = [
        text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)
        for name, sides, kind, offset in described
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return header + bytes(-len(header) % 32) + bytes(range(192))


def npz_sample() -> bytes:
    """Three arrays, stored."""
    buffer = io.BytesIO()
    draw = np.random.default_rng(0)
    np.savez(buffer, a=draw.normal(size=(3, 4)).astype(np.float32), b=np.arange(6, dtype=np.int16), c=np.float64(0.5))
    return buffer.getvalue()


def model_sample() -> Files:
    """The files of a model without its signature."""
    return {
        "model.safetensors": safetensors_sample(),
        "adapter.gguf": gguf_sample(),
        "sub/arrays.npz": npz_sample(),
        "config.json": b'{"model_type": "toy"}',
        "empty": b"",
    }
