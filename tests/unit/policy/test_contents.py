"""Dangerous formats are told by content, under any name, and harmless ones are let through."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.errors import UnreadableArtifact
from holdfast.models import build_architecture, save
from holdfast.policy.contents import formats_of


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.getpid, ()


def written(save_it: object, *arguments: object) -> bytes:
    stream = io.BytesIO()
    save_it(*arguments, stream)  # type: ignore[operator]
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return stream.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


OBJECTS = np.array([Evil()], dtype=object)
LAMBDA = json.dumps({"config": {"layers": [{"class_name": "Lambda"}]}}).encode()
PICKLES = {
    **{f"protocol {n}": pickle.dumps(Evil(), protocol=n) for n in range(6)},
    "torch.save": written(torch.save, {"w": torch.zeros(2)}),
    "gzip": gzip.compress(pickle.dumps(Evil())),
    "zlib": zlib.compress(pickle.dumps(Evil())),
    "bzip2": bz2.compress(pickle.dumps(Evil())),
    "xz": lzma.compress(pickle.dumps(Evil())),
    "npy of objects": written(lambda stream: np.save(stream, OBJECTS)),
    "npy with an object field": written(lambda stream: np.save(stream, np.zeros(1, dtype=[("a", "f4"), ("b", "O")]))),
    "npz of objects": written(lambda stream: np.savez(stream, a=OBJECTS)),
    "zip with a pickle by another name": zipped(weights__part1=pickle.dumps(Evil())),
    "zip after other bytes": b"GIF89a" + zipped(**{"x.pkl": b"."}),
    "tar with a pickle": tarred("storages", pickle.dumps([1])),
}


@pytest.mark.parametrize("name", list(PICKLES))
def test_a_pickle_is_found_under_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights.bin").write_bytes(PICKLES[name])
    assert "pickle" in formats_of(tmp_path / "weights.bin", "weights.bin")


def test_torchscript_and_lambda_layers_and_programs_are_found(tmp_path: Path) -> None:
    cases = {
        "torchscript": [scripted()],
        "keras-lambda": [b"\x89HDF\r\n\x1a\n" + bytes((1 << 20) - 12) + LAMBDA, zipped(**{"config.json": LAMBDA})],
        "code": [b"\x7fELF\x02", b"MZ\x90", b"#!/bin/sh\n"],
    }
    for kind, contents in cases.items():
        for data in contents:
            (tmp_path / "part").write_bytes(data)
            assert kind in formats_of(tmp_path / "part", "part"), (kind, data[:16])


@pytest.mark.parametrize(
    ("name", "kind"), [("A.PKL", "pickle"), ("m.pt", "pickle"), ("sub/x.Py", "code"), ("l.so.1", "code")]
)
def test_names_count_in_any_case(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert set(formats_of(tmp_path / "f", name)) == {kind}


TEXTS = [
    b"", b".", b"cat\ndog\nbird\nRest.\n", b"import os\nimport sys\n", b'{"class_name": "Lambda"}',
    b"# model\nReads a file.", b"x\x9c not compressed", b"BZh no", b"\x1f\x8b no", b"PK\x03\x04 no archive",
    bytes(600), gzip.compress(b"text"),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(TEXTS)))
def test_harmless_contents_pass(tmp_path: Path, place: int) -> None:
    (tmp_path / "f").write_bytes(TEXTS[place])
    assert formats_of(tmp_path / "f", "f") == {}


def test_a_saved_model_and_plain_arrays_pass(tmp_path: Path) -> None:
    save(build_architecture("digits-cnn"), tmp_path / "m")
    np.savez(tmp_path / "m" / "arrays.npz", a=np.zeros(3), b=np.array(["O"]))
    np.save(tmp_path / "m" / "array.npy", np.zeros((2, 2), dtype=[("Open", "f4")]))
    np.save(tmp_path / "m" / "bytes.npy", np.frombuffer(b"'O'" * 50, dtype=np.uint8))
    for path in sorted((tmp_path / "m").iterdir()):
        assert formats_of(path, path.name) == {}, path


def test_an_archive_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    whole = bytearray(zipped(a=b"x" * 100))
    whole[whole.index(b"PK\x01\x02") : whole.index(b"PK\x01\x02") + 4] = b"PK\x09\x09"
    (tmp_path / "f").write_bytes(bytes(whole))
    with pytest.raises(UnreadableArtifact, match="cannot be listed"):
        formats_of(tmp_path / "f", "f")
