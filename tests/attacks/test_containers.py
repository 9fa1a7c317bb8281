"""Hostile containers: each damaged byte is refused by name or leaves a layout in which no two tensors share a byte."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ArtifactError
from holdfast.evidence.containers import SUFFIXES, Slot, index_for


def index(kind: str, data: bytes) -> tuple[Slot, ...]:
    def read(start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= len(data), "the parser reads beyond the file"
        return data[start : start + length]

    found = index_for(f"model{kind}")
    assert found is not None
    return found(read, len(data))


def safetensors_bytes(header: object, data: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def gguf_bytes() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = text("general.name") + struct.pack("<I", 8) + text("x") + text("a") + struct.pack("<IIQ2I", 9, 4, 2, 7, 8)
    tensors = text("w") + struct.pack("<I2QIQ", 2, 32, 2, 2, 0) + text("b") + struct.pack("<IQIQ", 1, 3, 0, 64)
    front = b"GGUF" + struct.pack("<IQQ", 3, 2, 2) + pairs + tensors
    return front + bytes(-len(front) % 32) + bytes(76)


def npz_bytes(method: int = zipfile.ZIP_STORED, **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in (arrays or {"w": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int8)}).items():
            inner = io.BytesIO()
            np.save(inner, array)
            archive.writestr(f"{name}.npy", inner.getvalue())
    return buffer.getvalue()


W = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
B = {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]}
HONEST = {
    ".safetensors": safetensors_bytes({"__metadata__": {"format": "pt"}, "w": W, "b": B}),
    ".gguf": gguf_bytes(),
    ".npz": npz_bytes(),
}


def require_sound(slots: tuple[Slot, ...], size: int) -> None:
    for slot in slots:
        assert 0 <= slot.offset <= slot.offset + slot.length <= size
        assert all(side >= 0 for side in slot.shape)
    placed = sorted((slot.offset, slot.offset + slot.length) for slot in slots if slot.length)
    assert all(before[1] <= after[0] for before, after in pairwise(placed)), "two tensors share a byte"
    assert len({slot.name for slot in slots}) == len(slots)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_honest_ones_are_read(kind: str) -> None:
    slots = index(kind, HONEST[kind])
    assert {slot.name for slot in slots} == {"w", "b"}
    require_sound(slots, len(HONEST[kind]))


@pytest.mark.parametrize("kind", SUFFIXES)
def test_every_truncation_and_every_extension_is_refused(kind: str) -> None:
    whole = HONEST[kind]
    for length in range(len(whole)):
        with pytest.raises(ArtifactError):
            index(kind, whole[:length])
    if kind != ".gguf":  # whose file may end in padding
        with pytest.raises(ArtifactError):
            index(kind, whole + b"\0")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_every_single_byte_changed_is_refused_or_sound(kind: str) -> None:
    whole = HONEST[kind]
    for place in range(len(whole)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            data = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
            try:
                require_sound(index(kind, data), len(data))
            except ArtifactError:
                continue


@pytest.mark.parametrize("kind", SUFFIXES)
def test_random_damage_is_refused_or_sound(kind: str) -> None:
    whole, generator = HONEST[kind], random.Random(0)
    for _ in range(5000):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 6)):
            data[generator.randrange(len(data))] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        try:
            require_sound(index(kind, bytes(data)), len(data))
        except ArtifactError:
            continue


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SUFFIXES), st.binary(max_size=400))
def test_noise_is_refused(kind: str, data: bytes) -> None:
    fronts = {".safetensors": len(data).to_bytes(8, "little"), ".gguf": b"GGUF\x03\0\0\0", ".npz": b"PK\x03\x04"}
    with pytest.raises(ArtifactError):
        index(kind, fronts[kind] + data + b"\x01")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_ENTRY = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "F4", "I8", "x"]) | _JSON,
     "shape": st.lists(st.integers(0, 8), max_size=3) | _JSON,
     "data_offsets": st.lists(st.integers(0, 32), min_size=2, max_size=2) | _JSON}
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), _ENTRY | _JSON, max_size=4))
def test_any_json_header_is_refused_or_sound(header: dict[str, object]) -> None:
    data = safetensors_bytes(header)
    try:
        require_sound(index(".safetensors", data), len(data))
    except ArtifactError:
        return


SAFETENSORS = {
    "overlap": {"w": W, "b": B | {"data_offsets": [8, 16]}},
    "hole": {"w": W | {"shape": [2], "data_offsets": [0, 8]}, "b": B},
    "beyond the end": {"w": W, "b": B | {"data_offsets": [24, 32]}},
    "same bytes twice": {"w": W, "again": W, "b": B},
    "backwards": {"w": W | {"data_offsets": [16, 0]}, "b": B},
    "duplicate name": b'{"w":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"w":{}}',
    "duplicate key": b'{"w":{"dtype":"F32","dtype":"F32","shape":[6],"data_offsets":[0,24]}}',
    "lone surrogate": b'{"\\ud800":{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}',
    "NaN": b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,24]}}',
    "float": b'{"w":{"dtype":"F32","shape":[6.0],"data_offsets":[0,24]}}',
    "bool": b'{"w":{"dtype":"I8","shape":[24,true],"data_offsets":[0,24]}}',
    "half a byte": b'{"w":{"dtype":"F4","shape":[47],"data_offsets":[0,24]}}',
    "huge empty": {"w": W, "b": B, "e": {"dtype": "I8", "shape": [0, 2**60], "data_offsets": [24, 24]}},
    "deep": b"[" * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("name", SAFETENSORS)
def test_lying_safetensors_headers_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError):
        index(".safetensors", safetensors_bytes(SAFETENSORS[name]))


def patched(change: Callable[[bytearray], object], data: bytes = HONEST[".npz"]) -> bytes:
    octets = bytearray(data)
    change(octets)
    return bytes(octets)


def with_bytes(old: bytes, new: bytes, count: int = 1) -> bytes:
    return HONEST[".npz"].replace(old, new, count)


DIRECTORY = HONEST[".npz"].index(b"PK\x01\x02")
NPZ = {
    "two members of one name": HONEST[".npz"].replace(b"b.npy", b"w.npy"),
    "two names for one member": with_bytes(b"w.npy", b"v.npy"),
    "bytes before": b"#!/bin/sh\n" + HONEST[".npz"],
    "bytes before the directory": HONEST[".npz"][:DIRECTORY] + b"x" + HONEST[".npz"][DIRECTORY:],
    "encrypted": patched(lambda octets: octets.__setitem__(DIRECTORY + 8, 1)),
    "another method": patched(lambda octets: octets.__setitem__(DIRECTORY + 10, 12)),
    "methods that differ": patched(lambda octets: octets.__setitem__(DIRECTORY + 10, 8)),
    "comment": HONEST[".npz"][:-2] + b"\x01\x00x",
    "escaping name": HONEST[".npz"].replace(b"w.npy", b"../wy"),
    "shape larger than its data": with_bytes(b"(2, 3)", b"(2, 9)"),
    "negative shape": with_bytes(b"(2, 3)", b"(-2,3)"),
    "expression": with_bytes(b"(2, 3)", b"(2*3,)"),
    "objects": with_bytes(b"'<f4'", b"'|O4'"),
    "big-endian": with_bytes(b"'<f4'", b"'>f4'"),
    "column order": with_bytes(b"'fortran_order': False", b"'fortran_order': True "),
    "no array": with_bytes(b"\x93NUMPY", b"\x93NUMPX"),
}


@pytest.mark.parametrize("name", NPZ)
def test_lying_archives_are_refused(name: str) -> None:
    assert NPZ[name] != HONEST[".npz"]
    with pytest.raises(ArtifactError):
        index(".npz", NPZ[name])
