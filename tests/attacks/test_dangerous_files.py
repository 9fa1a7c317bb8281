"""Attacks on ``[files] forbid``: files that run code when loaded, written so that a scanner looks past them.

Each is first shown to work with the reader it is meant for, where that needs no more than the standard library.
"""

from __future__ import annotations

import gzip
import io
import lzma
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from holdfast.policy.contents import formats_of

CALL = b"cos\ngetpid\n(tR."
HEADERLESS = {
    "arguments marked before the import": b"(cos\ngetpid\no.",
    "arguments kept from before the import": b"(tp0\n0cos\ngetpid\ng0\nR.",
    "a number that only the unpickler reads": b"I0x10\n0" + CALL,
    "an octal number": b"I010\n0" + CALL,
    "behind a megabyte of text": b"S'" + b"a" * (2 << 20) + b"'\n0" + CALL,
    "behind a megabyte of bytes": b"B" + struct.pack("<I", 2 << 20) + bytes(2 << 20) + b"0" + CALL,
    "the header of protocol 0": b"\x80\x00" + CALL,
}


def found(folder: Path, data: bytes) -> set[str]:
    (folder / "weights.bin").write_bytes(data)
    return set(formats_of(folder / "weights.bin", "weights.bin"))


@pytest.mark.parametrize("name", list(HEADERLESS))
def test_a_pickle_without_a_header_is_found_however_it_is_written(tmp_path: Path, name: str) -> None:
    assert isinstance(pickle.loads(HEADERLESS[name]), int), "it does call"
    assert found(tmp_path, HEADERLESS[name]) == {"pickle"}


def test_a_pickle_behind_a_harmless_one_is_found(tmp_path: Path) -> None:
    for second in (CALL, pickle.dumps([1], protocol=2)):
        assert found(tmp_path, b"N." + second) == {"pickle"}


def test_changing_what_was_imported_counts_like_calling_it(tmp_path: Path) -> None:
    assert found(tmp_path, b"cos\nenviron\n(S'A'\nS'B'\nu.") == {"pickle"}


def test_more_opcodes_than_are_followed_count(tmp_path: Path) -> None:
    assert found(tmp_path, b"N0" * 600_000 + CALL) == {"pickle"}


def array_file(description: str, body: bytes) -> bytes:
    text = description.encode()
    version, length = (b"\x01\x00", "<H") if len(text) < 1 << 16 else (b"\x02\x00", "<I")
    return b"\x93NUMPY" + version + struct.pack(length, len(text)) + text + body


@pytest.mark.parametrize(
    "description",
    [
        "{'descr': 'object', 'fortran_order': False, 'shape': (1,), }\n",
        "{'descr': '|\\x4f', 'fortran_order': False, 'shape': (1,), }\n",
        "{'descr': '|' 'O', 'fortran_order': False, 'shape': (1,), }\n",
        "{" + " " * (1 << 20) + "'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    ],
    ids=["by its long name", "escaped", "in two pieces", "far behind"],
)
def test_an_array_of_objects_is_found_however_it_is_described(tmp_path: Path, description: str) -> None:
    data = array_file(description, pickle.dumps(np.array([{}], dtype=object)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.load(io.BytesIO(data), allow_pickle=True)[0] == {}, "it does load"
    assert found(tmp_path, data) == {"pickle"}


def test_an_array_described_in_words_of_python_2_is_judged(tmp_path: Path) -> None:
    assert (
        found(tmp_path, array_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }\n", bytes(8))) == set()
    )
    assert found(tmp_path, array_file("{'descr': nonsense}\n", bytes(8))) == {"pickle"}


COMPRESSED = {
    "lzma of joblib": lzma.compress(pickle.dumps([1]), format=lzma.FORMAT_ALONE),
    "no header inside": gzip.compress(CALL),
    "behind an empty stream": gzip.compress(b"") + gzip.compress(pickle.dumps([1])),
}


@pytest.mark.parametrize("name", list(COMPRESSED))
def test_a_compressed_pickle_is_found(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, COMPRESSED[name]) == {"pickle"}


def tarred(name: str, data: bytes) -> bytearray:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return bytearray(stream.getvalue())


def test_a_tar_archive_without_its_mark_is_one(tmp_path: Path) -> None:
    data = tarred("storages", pickle.dumps([1]))
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with tarfile.open(fileobj=io.BytesIO(bytes(data)), mode="r:") as archive:
        assert archive.getnames() == ["storages"]
    assert found(tmp_path, bytes(data)) == {"pickle"}


def test_members_of_a_tar_archive_are_judged_like_files(tmp_path: Path) -> None:
    assert found(tmp_path, bytes(tarred("x", CALL))) == {"pickle"}
    assert found(tmp_path, bytes(tarred("x.pkl", b""))) == {"pickle"}


def test_both_members_of_one_name_are_judged(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("data", pickle.dumps([1]))
        archive.writestr("data", b"harmless")
    assert found(tmp_path, stream.getvalue()) == {"pickle"}


def test_an_escaped_lambda_layer_is_one(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("config.json", '{"layers": [{"class_name": "Lambd\\u0061"}]}')
    assert found(tmp_path, stream.getvalue()) == {"keras-lambda"}
    assert found(tmp_path, b'\x89HDF\r\n\x1a\n{"cl\\u0061ss_name": "\\u004cambda"}') == {"keras-lambda"}


def test_random_weights_are_no_pickles(tmp_path: Path) -> None:
    draws = np.random.Generator(np.random.PCG64(7))
    blobs = [draws.standard_normal(256, dtype=np.float32).tobytes() for _ in range(500)]
    assert [blob[:8] for blob in blobs if found(tmp_path, blob)] == []
