"""The indices of containers: what other programs wrote is found where it lies."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from holdfast.errors import ArtifactError, UnreadableArtifact, UnsafeArtifact, UnsupportedVersion
from holdfast.evidence.containers import gguf, index_for, npz, safetensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 5), np.int8),
    "é": np.array([True, False, True]),
    "one column": np.asfortranarray(np.ones((3, 1), np.complex128)),
    "many sides": np.zeros((1, 2, 1, 2, 1), np.uint16),
}


def reader(data: bytes) -> tuple[Callable[[int, int], bytes], int]:
    return lambda start, length: data[start : start + length], len(data)


def test_a_container_is_known_by_its_name():
    assert index_for("sub/model-00001-of-00002.safetensors") is safetensors.index
    assert index_for("model.GGUF") is gguf.index
    assert index_for("arrays.npz") is npz.index
    assert index_for("model.safetensors.index.json") is None


def test_safetensors_tensors_are_found_where_their_bytes_are():
    tensors = {"w": torch.randn(3, 5), "b": torch.ones(7, dtype=torch.bfloat16), "none": torch.zeros(0, 4)}
    data = save(tensors, {"format": "pt"})
    header = safetensors.read_header(*reader(data))
    assert header.metadata == {"format": "pt"}
    assert {slot.name for slot in header.slots} == set(tensors)
    for slot in header.slots:
        wanted = tensors[slot.name]
        assert slot.shape == tuple(wanted.shape)
        assert slot.dtype == {torch.float32: "f32", torch.bfloat16: "bf16"}[wanted.dtype]
        assert data[slot.offset : slot.offset + slot.length] == wanted.view(torch.uint8).numpy().tobytes()


def test_npz_arrays_are_found_where_their_bytes_are(tmp_path: Path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    data = (tmp_path / "x.npz").read_bytes()
    slots = {slot.name: slot for slot in npz.index(*reader(data))}
    assert slots.keys() == ARRAYS.keys()
    for name, slot in slots.items():
        assert slot.shape == ARRAYS[name].shape
        assert data[slot.offset : slot.offset + slot.length] == ARRAYS[name].tobytes()
    assert [slots[name].dtype for name in ARRAYS] == ["f32", "f64", "i8", "bool", "c128", "u16"]


def test_deflated_members_are_no_slots_and_are_named(tmp_path: Path):
    np.savez_compressed(tmp_path / "x.npz", **ARRAYS)
    data = (tmp_path / "x.npz").read_bytes()
    assert npz.index(*reader(data)) == ()
    assert {item.name for item in npz.members(*reader(data)) if item.packed} == {f"{name}.npy" for name in ARRAYS}


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.array([{}], object), UnsafeArtifact, "Python objects"),
        (np.array(["text"]), UnsupportedVersion, "type '<U4'"),
        (np.zeros(2, ">f4"), UnsupportedVersion, "type '>f4'"),
        (np.zeros(2, [("x", "f4")]), UnsupportedVersion, "no plain array"),
        (np.zeros(2, "M8[s]"), UnsupportedVersion, "type"),
        (np.asfortranarray(np.zeros((2, 3))), UnsupportedVersion, "column order"),
    ],
)
def test_arrays_that_are_no_tensors_are_refused_by_name(
    array: np.ndarray, error: type[ArtifactError], message: str, tmp_path: Path
):
    np.savez(tmp_path / "x.npz", it=array)
    with pytest.raises(error, match=rf"it\.npy .*{message}"):
        npz.index(*reader((tmp_path / "x.npz").read_bytes()))


def gguf_bytes(*tensors: tuple[str, tuple[int, ...], int, int], data: bytes, version: int = 3) -> bytes:
    front = b"GGUF" + struct.pack("<IQQ", version, len(tensors), 0)
    for name, shape, kind, offset in tensors:
        front += struct.pack("<Q", len(name)) + name.encode()
        front += struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
    return front + bytes(-len(front) % 32) + data


@pytest.mark.parametrize("version", [2, 3])
def test_gguf_tensors_of_every_type_take_their_blocks(version: int):
    for name, (kind, block, size) in gguf.TYPES.items():
        data = gguf_bytes(("a", (2, block * 2), kind, 0), data=bytes(4 * size), version=version)
        (slot,) = gguf.index(*reader(data))
        assert (slot.dtype, slot.shape, slot.length) == (name.lower(), (2, block * 2), 4 * size)
        assert slot.offset == len(data) - 4 * size


def test_gguf_tensors_come_in_the_order_of_their_bytes():
    data = gguf_bytes(("late", (8,), 0, 32), ("early", (3,), 0, 0), data=bytes(64))
    slots = gguf.index(*reader(data))
    assert [slot.name for slot in slots] == ["early", "late"]
    assert slots[1].offset - slots[0].offset == 32
    with pytest.raises(UnreadableArtifact, match="overlaps"):
        gguf.index(*reader(gguf_bytes(("late", (9,), 0, 0), ("early", (3,), 0, 32), data=bytes(64))))
