"""Files that lie: one clear error each, before anything is allocated."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.errors import HoldfastError, UnreadableArtifact, UnsupportedVersion
from holdfast.quantization.adapters import awq, ggml, open_packed, write_packed

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(folder: Path, header: object, data: bytes = bytes(8), *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (b"", UnreadableArtifact, "no JSON"),
        (b"[]", UnreadableArtifact, "is an object"),
        (b"\xff{}", UnreadableArtifact, "no JSON"),
        (b"[" * 100_000, UnreadableArtifact, "no JSON"),
        (b'{"w": 1, "w": 2}', UnreadableArtifact, "twice"),
        ({"__metadata__": {"a": 1}, "w": F32}, UnreadableArtifact, "text to text"),
        ({"__metadata__": [], "w": F32}, UnreadableArtifact, "text to text"),
        ({"w": []}, UnreadableArtifact, "w is not described"),
        ({"w": F32 | {"more": 1}}, UnreadableArtifact, "w is not described"),
        ({"w": {"dtype": "F32", "shape": [2]}}, UnreadableArtifact, "w is not described"),
        ({"w": F32 | {"dtype": "F31"}}, UnsupportedVersion, "unknown type 'F31'"),
        ({"w": F32 | {"dtype": "F16"}}, UnreadableArtifact, "does not take the bytes"),
        ({"w": F32 | {"shape": [3]}}, UnreadableArtifact, "does not take the bytes"),
        ({"w": F32 | {"shape": [-2]}}, UnreadableArtifact, "natural numbers"),
        ({"w": F32 | {"shape": [2.0]}}, UnreadableArtifact, "natural numbers"),
        ({"w": F32 | {"shape": [True]}}, UnreadableArtifact, "natural numbers"),
        ({"w": F32 | {"shape": "2"}}, UnreadableArtifact, "natural numbers"),
        ({"w": F32 | {"shape": [2**62, 2**62]}}, UnreadableArtifact, "does not take the bytes"),
        ({"w": F32 | {"shape": [2**64]}}, UnreadableArtifact, "natural numbers"),
        ({"w": F32 | {"data_offsets": [8, 0]}}, UnreadableArtifact, "does not take the bytes"),
        ({"w": F32 | {"data_offsets": [0, 4, 8]}}, UnreadableArtifact, "does not take the bytes"),
        ({"w": F32 | {"data_offsets": [4, 12]}}, UnreadableArtifact, "hole"),
        ({"w": F32 | {"data_offsets": [2**62, 2**62 + 8]}}, UnreadableArtifact, "hole"),
        ({"w": F32, "v": F32}, UnreadableArtifact, "overlaps"),
        ({"w": F32 | {"shape": [1], "data_offsets": [0, 4]}}, UnreadableArtifact, "4 bytes of the file belong to no"),
        ({}, UnreadableArtifact, "8 bytes of the file belong to no"),
    ],
)
def test_safetensors_headers_that_lie(header: object, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        open_packed(safetensors(tmp_path, header))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10_000])
def test_a_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="the header claims"):
        open_packed(safetensors(tmp_path, {"w": F32}, length=length))


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def tensor(name: str | bytes = "w", sides: tuple[int, ...] = (32,), kind: int = 2, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def gguf(
    folder: Path, *tensors: bytes, pairs: tuple[bytes, ...] = (), head: bytes = b"GGUF\x03\0\0\0",
    counts: tuple[int, int] | None = None, data: bytes = bytes(64),
) -> Path:  # fmt: skip
    front = head + struct.pack("<QQ", *(counts or (len(tensors), len(pairs)))) + b"".join(pairs) + b"".join(tensors)
    path = folder / "model.gguf"
    path.write_bytes(front + bytes(-len(front) % 32) + data)
    return path


def array(*levels: int, count: int = 2**60) -> bytes:
    return text("a") + struct.pack("<I", 9) + b"".join(struct.pack("<IQ", 9, 1) for _ in levels) + struct.pack(
        "<IQ", 4, count
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"head": b"GGUF\x01\0\0\0"}, UnsupportedVersion, "version 1"),
        ({"head": b"GGUF\x09\0\0\0"}, UnsupportedVersion, "version 9"),
        ({"head": b"GGUF\0\0\0\x03"}, UnsupportedVersion, "big-endian"),
        ({"counts": (2**60, 0)}, UnreadableArtifact, "claims 1152921504606846976 tensors"),
        ({"counts": (0, 2**60)}, UnreadableArtifact, "claims 1152921504606846976 metadata pairs"),
        ({"counts": (3, 0)}, UnreadableArtifact, "is described|twice|dimensions|runs beyond"),
        ({"tensors": [tensor(kind=99)]}, UnsupportedVersion, "type 99"),
        ({"tensors": [tensor(kind=4)]}, UnsupportedVersion, "type 4"),
        ({"tensors": [tensor(sides=())]}, UnreadableArtifact, "0 dimensions"),
        ({"tensors": [tensor(sides=(32, 1, 1, 1, 1))]}, UnreadableArtifact, "5 dimensions"),
        ({"tensors": [tensor(sides=(33,))]}, UnreadableArtifact, "rows of 33"),
        ({"tensors": [tensor(sides=(2**63, 2**63, 2**63, 2**63))]}, UnreadableArtifact, "leaves the file"),
        ({"tensors": [tensor(sides=(32, 2**40))]}, UnreadableArtifact, "leaves the file"),
        ({"tensors": [tensor(offset=64)]}, UnreadableArtifact, "leaves the file"),
        ({"tensors": [tensor(offset=2**64 - 32)]}, UnreadableArtifact, "leaves the file"),
        ({"tensors": [tensor(offset=16)]}, UnreadableArtifact, "is not aligned"),
        ({"tensors": [tensor("a"), tensor("b")]}, UnreadableArtifact, "overlaps"),
        ({"tensors": [tensor(), tensor(offset=32)]}, UnreadableArtifact, "one tensor twice"),
        ({"tensors": [tensor(b"\xff")]}, UnreadableArtifact, "no UTF-8"),
        ({"pairs": (text("a") + struct.pack("<I", 13),)}, UnreadableArtifact, "unknown type 13"),
        ({"pairs": (text("a") + struct.pack("<IB", 0, 1),) * 2}, UnreadableArtifact, "'a' twice"),
        ({"pairs": (array(),)}, UnreadableArtifact, "claims 1152921504606846976 values"),
        ({"pairs": (array(*range(4)),)}, UnreadableArtifact, "unknown type 9"),
        ({"pairs": (text("general.alignment") + struct.pack("<II", 4, 0),)}, UnreadableArtifact, "power of two"),
        ({"pairs": (text("general.alignment") + struct.pack("<II", 4, 24),)}, UnreadableArtifact, "power of two"),
        ({"pairs": (text("general.alignment") + struct.pack("<I?", 7, True),)}, UnreadableArtifact, "power of two"),
        ({"pairs": (text("general.alignment") + struct.pack("<II", 4, 2**31),)}, UnreadableArtifact, "power of two"),
    ],
)
def test_gguf_headers_that_lie(
    content: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    tensors = content.pop("tensors", [tensor()])
    with pytest.raises(error, match=message):
        open_packed(gguf(tmp_path, *tensors, **content))  # type: ignore[misc, arg-type]


def test_the_honest_one_opens(tmp_path: Path) -> None:
    assert open_packed(gguf(tmp_path, tensor()))["w"].decode().tolist() == [0] * 32


def test_a_lie_costs_no_memory(tmp_path: Path) -> None:
    huge = gguf(tmp_path, tensor(sides=(2**40,)), counts=(1, 0))
    tracemalloc.start()
    with pytest.raises(UnreadableArtifact):
        open_packed(huge)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def examples(folder: Path) -> dict[str, Path]:
    q, a = ggml("w", "Q4_K", (2, 256)), awq("w.weight", (8, 32), size=32)
    write_packed(folder / "a.gguf", [(q, q.format.encode(torch.ones(2, 256)))], {"general.name": "x", "k": 3})
    write_packed(folder / "b.safetensors", [(a, a.format.encode(torch.ones(8, 32)))], {"format": "pt"})
    return {"gguf": folder / "a.gguf", "safetensors": folder / "b.safetensors"}


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_every_truncation_is_refused(kind: str, tmp_path: Path) -> None:
    path = examples(tmp_path)[kind]
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises((UnreadableArtifact, UnsupportedVersion)):
            open_packed(path)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_damaged_headers_open_or_are_refused_and_nothing_else(kind: str, tmp_path: Path) -> None:
    path = examples(tmp_path)[kind]
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    front = 300 if kind == "safetensors" else 130
    opened = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in generator.integers(0, front, generator.integers(1, 4)):
            damaged[place] = int(generator.integers(0, 256))
        path.write_bytes(damaged)
        try:
            file = open_packed(path)
            for item in file.values():
                item.decode(damaged=True)
            opened += 1
        except HoldfastError:
            continue
    assert 0 < opened < 400
