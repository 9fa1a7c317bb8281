"""Attacks on ``[files] forbid``: archives that show one list of members to a scanner, and another to who loads them.

Each is first shown to run code in the reader that it is meant for.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from holdfast.policy.contents import formats_of


class Evil:
    """Makes an empty file called as the environment says when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("import os; open(os.environ['HOLDFAST_EVIL'], 'w').close()",)


def saved() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": Evil()}, stream)
    return stream.getvalue()


def members() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(saved())) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return members, list and end record of an archive."""
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    assert start + size == end
    return data[:start], data[start:end], data[end:]


def moved(listing: bytes, by: int) -> bytes:
    """Return a list of members that lie ``by`` bytes behind where it said."""
    found, place = b"", 0
    while place < len(listing):
        lengths = struct.unpack("<3H", listing[place + 28 : place + 34])
        (offset,) = struct.unpack("<I", listing[place + 42 : place + 46])
        end = place + 46 + sum(lengths)
        found += listing[place : place + 42] + struct.pack("<I", offset + by) + listing[place + 46 : end]
        place = end
    return found


def with_a_second_list() -> bytes:
    """torch believes where the end record says that the list is, Python that it lies right before that record."""
    harmful = zipped(members())
    harmless = zipped({name.replace(".pkl", ".dat"): b"harmless" for name in members()})
    (bodies, listing, end), (others, other, _) = split(harmful), split(harmless)
    assert len(listing) == len(other)
    before = len(bodies) + len(listing)
    return bodies + listing + others + moved(other, before - (len(listing) + len(others))) + end


def with_a_far_end() -> bytes:
    """torch looks for the end record in a little more than the last 64 KiB, Python in just these."""
    return saved() + bytes(68_000)


ARCHIVES = {"a second list": with_a_second_list, "an end record further from the end": with_a_far_end}


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_an_archive_in_which_readers_find_unlike_members_may_hold_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, ran = tmp_path / "weights.bin", tmp_path / "ran"
    monkeypatch.setenv("HOLDFAST_EVIL", str(ran))
    path.write_bytes(ARCHIVES[name]())
    torch.load(path, weights_only=False)
    assert ran.exists(), "it does run"
    assert "pickle" in formats_of(path, "weights.bin")


def test_a_harmless_archive_behind_a_tar_archive_hides_nothing(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("storages")
        member.size = len(data := pickle.dumps([1]))
        archive.addfile(member, io.BytesIO(data))
    (tmp_path / "weights.bin").write_bytes(stream.getvalue() + zipped({"text": b"harmless"}))
    assert "pickle" in formats_of(tmp_path / "weights.bin", "weights.bin")


LAMBDA = '{"layers": [{"class_name": "Lambda"}]}'
CONFIGURATIONS = {
    "in UTF-16": LAMBDA.encode("utf-16"),
    "in UTF-32": LAMBDA.encode("utf-32"),
    "behind more blanks than are read": b" " * (64 << 20) + LAMBDA.encode(),
    "as a function": b'{"class_name": "__lambda__", "config": {"value": "code"}}',
}


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_a_lambda_layer_is_found_however_its_configuration_is_written(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "model", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", CONFIGURATIONS[name])
    assert set(formats_of(tmp_path / "model", "model")) == {"keras-lambda"}


@pytest.mark.parametrize("before", [512, 1024, 1 << 16])
def test_an_hdf5_file_behind_a_block_of_its_users_is_one(tmp_path: Path, before: int) -> None:
    (tmp_path / "model").write_bytes(os.urandom(before) + b"\x89HDF\r\n\x1a\n" + LAMBDA.encode())
    assert "keras-lambda" in formats_of(tmp_path / "model", "model")


def test_blanks_between_the_words_of_a_lambda_layer_hide_nothing(tmp_path: Path) -> None:
    words = b'{"class_name"' + b" " * 20_000 + b': "Lambda"}'
    (tmp_path / "model").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes((1 << 20) - 5_000) + words)
    assert set(formats_of(tmp_path / "model", "model")) == {"keras-lambda"}


def test_what_torch_saves_and_an_empty_archive_are_read_alike_by_all(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream)
    for data, wanted in ((stream.getvalue(), {"pickle"}), (zipped({}), set()), (zipped({"a": b"text"}), set())):
        (tmp_path / "weights.bin").write_bytes(data)
        assert set(formats_of(tmp_path / "weights.bin", "weights.bin")) == wanted
