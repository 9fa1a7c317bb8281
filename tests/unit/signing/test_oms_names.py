"""Names and trees: what is a path inside a model, what is a shard of one, and what a walk finds."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UnreadableArtifact
from holdfast.evidence.beside import is_canonical, is_evidence
from holdfast.evidence.tree import DEEPEST
from holdfast.signing import generate_key, verify_artifact
from holdfast.signing.oms.names import covers, parse_shard, shard_name
from holdfast.signing.oms.tree import walk

OFFSETS = st.integers(0, 2**53)


@given(st.text(min_size=1), OFFSETS, OFFSETS)
def test_a_shards_name_is_read_back_whatever_the_path(path: str, start: int, end: int):
    assert parse_shard(shard_name(path, start, end)) == (path, start, end)


@given(st.text())
def test_a_shard_has_one_spelling(name: str):
    shard = parse_shard(name)
    assert shard is None or shard_name(*shard) == name


@given(st.text(alphabet="ab./\\\0:é", max_size=12) | st.text(max_size=12))
def test_a_canonical_name_stays_inside_and_has_one_spelling(name: str):
    if is_canonical(name):
        path = PurePosixPath(name)
        assert str(path) == name
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert os.path.normpath(name) == name


@pytest.mark.parametrize("name", ["a", "a/b", " ", "a b", "...", "a..b", ".a", "é/文", "a:0:8", "a\\b", "-", "~"])
def test_ordinary_names_are_canonical(name: str):
    assert is_canonical(name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/a", "a/", "a//b", "./a", "a/.", "a/../b", "a\0", "\ud800"])
def test_other_names_are_not(name: str):
    assert not is_canonical(name)


def test_a_folder_covers_what_is_in_it_and_not_what_begins_like_it():
    assert covers({"a"}, "a")
    assert covers({"a"}, "a/b/c")
    assert covers({"a/b"}, "a/b/c")
    assert not covers({"a"}, "ab")
    assert not covers({"a/b"}, "a")
    assert not covers(set(), "a")


def test_only_evidence_is_our_own():
    own = {"model.sig2", "model.outboard/a/w.obao", "lineage/x.bundle.json"}
    assert {name for name in own if is_evidence(name)} == own
    other = (
        "lineage",
        "lineage/a/x.bundle.json",
        "lineage/x.py",
        "model.outboard/w.bin",
        "sub/model.sig2",
        "model.sig22",
    )
    assert not any(map(is_evidence, other))


def names(folder: Path, skip=lambda name: False) -> list[str]:
    return [entry.name for entry in walk(folder, skip)]


def test_a_walk_finds_every_file_and_does_not_enter_what_is_skipped(tmp_path: Path):
    for name in ("b", "a/x", "a-b", "c/d/e", "c/d2", "empty/"):
        place = tmp_path / name
        (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            place.touch()
    assert sorted(names(tmp_path)) == ["a-b", "a/x", "b", "c/d/e", "c/d2"]
    seen: list[str] = []
    names(tmp_path, lambda name: seen.append(name) or name == "c")
    assert not any(name.startswith("c/") for name in seen)
    assert names(tmp_path / "b") == ["."]


def test_folders_are_bounded_in_depth(tmp_path: Path):
    deep = tmp_path.joinpath(*["d"] * DEEPEST)
    deep.mkdir(parents=True)
    (deep / "f").touch()
    assert len(names(tmp_path)) == 1
    (deep / "d").mkdir()
    with pytest.raises(UnreadableArtifact, match="deeper"):
        names(tmp_path)


def test_what_is_not_there_is_said_to_be_so(tmp_path: Path):
    with pytest.raises(UnreadableArtifact, match="no file or folder"):
        names(tmp_path / "nothing")
    (tmp_path / "m").mkdir()
    with pytest.raises(UnreadableArtifact, match="no signature at"):
        verify_artifact(tmp_path / "m", generate_key().public)
    os.mkfifo(tmp_path / "m" / "model.sig")
    with pytest.raises(UnreadableArtifact, match="no signature at"):
        verify_artifact(tmp_path / "m", generate_key().public)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableArtifact, match="not a regular file"):
        names(tmp_path / "pipe")


def test_an_open_fails_when_the_file_went_away(tmp_path: Path):
    (tmp_path / "f").touch()
    entry = next(walk(tmp_path, lambda name: False))
    (tmp_path / "f").unlink()
    with pytest.raises(UnreadableArtifact, match=r"cannot read .*/f:"), entry.open():
        pass
