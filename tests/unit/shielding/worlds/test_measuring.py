"""Measuring files and folders: every change shows, nothing else does, and the copy is what was measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.errors import PolicyError, UnreadableArtifact
from holdfast.shielding.worlds import Measurement, measure
from tests.attesting import tpm_replay


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "folder"
    (place / "inner").mkdir(parents=True)
    (place / "a").write_bytes(b"one")
    (place / "inner" / "b").write_bytes(b"two")
    (place / "link").symlink_to("a")
    return place


def test_a_folder_measures_the_same_twice_and_as_its_copy(folder: Path, tmp_path: Path):
    digest = measure(folder)
    assert digest == measure(folder) == measure(folder, tmp_path / "copy") == measure(tmp_path / "copy")
    assert (tmp_path / "copy" / "inner" / "b").read_bytes() == b"two"
    assert os.readlink(tmp_path / "copy" / "link") == "a"


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "a").write_bytes(b"oNe"),
        lambda place: (place / "a").rename(place / "c"),
        lambda place: (place / "a").chmod(0o755),
        lambda place: (place / "new").mkdir(),
        lambda place: (place / "new").write_bytes(b""),
        lambda place: ((place / "link").unlink(), (place / "link").symlink_to("inner/b")),
        lambda place: ((place / "link").unlink(), (place / "link").write_bytes(b"one")),
        lambda place: (place / "inner" / "b").rename(place / "b"),
        lambda place: (place / "sourceless.pyc").write_bytes(b""),
    ],
)
def test_every_change_shows(folder: Path, change: object):
    before = measure(folder)
    change(folder)  # type: ignore[operator]
    assert measure(folder) != before


def test_compiled_copies_are_left_out_and_never_copied(folder: Path, tmp_path: Path):
    before = measure(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert measure(folder, tmp_path / "copy") == before
    assert not (tmp_path / "copy" / "__pycache__").exists()


def test_where_one_file_ends_and_the_next_begins_is_part_of_it(tmp_path: Path):
    for name, parts in (("x", {"a": b"1", "b": b"23"}), ("y", {"a": b"12", "b": b"3"}), ("z", {'a",""],["b': b"1"})):
        (tmp_path / name).mkdir()
        for file, data in parts.items() if isinstance(parts, dict) else [(item, b"1") for item in parts]:
            (tmp_path / name / file).write_bytes(data)
    assert len({measure(tmp_path / name) for name in "xyz"}) == 3


def test_what_is_neither_file_nor_folder_is_refused(folder: Path):
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnreadableArtifact, match="it is no file, folder or link"):
        measure(folder)
    with pytest.raises(UnreadableArtifact, match="cannot measure"):
        measure(folder / "absent")


def test_what_stays_in_place_must_be_out_of_reach(folder: Path, tmp_path: Path):
    (folder / "a").chmod(0o666)
    with pytest.raises(PolicyError, match="others may change"):
        measure(folder)
    measure(folder, tmp_path / "copy")  # a copy is nobody else's


def test_a_folder_above_that_others_may_change_is_as_bad(folder: Path, tmp_path: Path):
    tmp_path.chmod(0o777)
    with pytest.raises(PolicyError, match="others may change"):
        measure(folder)
    tmp_path.chmod(0o1777)  # as /tmp is: nobody renames what is not his
    measure(folder)


def test_the_register_is_what_a_tpm_would_hold():
    events = (("code", b"\x21" * 32), ("model", b"\x22" * 32))
    assert Measurement(events).register() == tpm_replay(events)
    assert Measurement(events).demands()["event.code"] == ("21" * 32,)
