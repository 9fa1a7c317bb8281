"""The files of a folder: exactly those, opened as they were listed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import UnreadableArtifact
from holdfast.evidence.digest import digest_file, digest_tree
from holdfast.evidence.tree import Links, open_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "sub" / "deeper").mkdir(parents=True)
    for name in ("b", "a-b", "a.b", "sub/x", "sub/deeper/ü \n"):
        (root / name).write_text(name)
    return root


def test_names_are_sorted_by_code_point_and_lead_to_the_bytes(folder: Path):
    found = digest_tree(folder)
    assert list(found) == ["a-b", "a.b", "b", "sub/deeper/ü \n", "sub/x"]
    assert found["sub/x"] == digest_file(folder / "sub" / "x")


def test_excluded_files_and_folders_are_left_out(folder: Path):
    assert list(digest_tree(folder, exclude=["b", "sub/deeper"])) == ["a-b", "a.b", "sub/x"]
    assert "sub/x" in digest_tree(folder, exclude=["su", "x"])


def test_a_file_is_one_entry(folder: Path):
    assert digest_tree(folder / "b") == {".": digest_file(folder / "b")}
    (folder / "link").symlink_to("b")
    with pytest.raises(UnreadableArtifact, match="not a regular file"):
        digest_tree(folder / "link")
    assert digest_tree(folder / "link", links=Links.INSIDE) == {".": digest_file(folder / "b")}


def test_what_is_missing_is_said(tmp_path: Path):
    with pytest.raises(UnreadableArtifact, match="no file or folder"):
        digest_tree(tmp_path / "missing")


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "link to a file": lambda path: path.symlink_to("b"),
    "link to a folder": lambda path: path.symlink_to("sub"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_anything_but_files_and_folders_is_refused(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    IRREGULAR[kind](Path("odd"))
    with pytest.raises(UnreadableArtifact, match=r"odd is .*not a regular file"):
        digest_tree(folder)
    assert "odd" not in digest_tree(folder, exclude=["odd"])


def test_a_name_that_is_not_utf8_is_refused(folder: Path):
    (Path(os.fsdecode(bytes(folder) + b"/\xff"))).write_bytes(b"")
    with pytest.raises(UnreadableArtifact, match="not UTF-8"):
        digest_tree(folder)


def test_folders_without_end_are_refused(tmp_path: Path):
    (tmp_path / ("d/" * 70)).mkdir(parents=True)
    with pytest.raises(UnreadableArtifact, match="deeper than 64"):
        digest_tree(tmp_path)


def swap_file_for_link(root: Path) -> None:
    (root / "sub" / "x").unlink()
    (root / "sub" / "x").symlink_to(root / "b")


def swap_folder_for_link(root: Path) -> None:
    (root / "sub").rename(root.parent / "away")
    (root / "sub").symlink_to(root.parent / "away")


def swap_file_for_fifo(root: Path) -> None:
    (root / "sub" / "x").unlink()
    os.mkfifo(root / "sub" / "x")


@pytest.mark.parametrize("swap", [swap_file_for_link, swap_folder_for_link, swap_file_for_fifo])
def test_what_is_put_in_place_of_a_listed_file_is_not_followed(swap: Callable[[Path], None], folder: Path):
    with open_tree(folder) as tree:
        (listed,) = (item for item in tree.files if item.name == "sub/x")
        swap(folder)
        with pytest.raises(UnreadableArtifact), tree.open(listed):
            pass


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model in the layout of the Hugging Face cache."""
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    (snapshot / "sub").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("one")
    (blobs / "2").write_text("two")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "sub" / "weights").symlink_to("../../../blobs/2")
    return snapshot


def test_a_hugging_face_cache_is_read_through_its_links_when_asked(cache: Path):
    with pytest.raises(UnreadableArtifact, match="not a regular file"):
        digest_tree(cache)
    found = digest_tree(cache, links=Links.BLOBS)
    assert found == {
        "config.json": digest_file(cache.parent.parent / "blobs" / "1"),
        "sub/weights": digest_file(cache.parent.parent / "blobs" / "2"),
    }


@pytest.mark.parametrize("target", ["config.json", "../../../secret", "/etc/hostname", "../../blobs/folder/x", "sub"])
def test_links_out_of_the_blobs_are_refused(target: str, cache: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    (cache.parent.parent / "blobs" / "folder").mkdir()
    (cache.parent.parent / "blobs" / "folder" / "x").write_text("x")
    (cache / "odd").symlink_to(target)
    with pytest.raises(UnreadableArtifact, match=r"odd is a link.*not a regular file"):
        digest_tree(cache, links=Links.BLOBS)


def test_a_blob_that_is_itself_a_link_is_refused(cache: Path):
    blob = cache.parent.parent / "blobs" / "1"
    blob.unlink()
    blob.symlink_to("2")
    with pytest.raises(UnreadableArtifact):
        digest_tree(cache, links=Links.BLOBS)


def test_links_inside_the_model_stand_for_their_files_when_asked_and_folders_never(cache: Path, tmp_path: Path):
    (cache / "real").write_text("r")
    (cache / "sub" / "odd").symlink_to("../real")
    (cache / "odder").symlink_to("sub/odd")
    found = digest_tree(cache, links=Links.INSIDE)
    assert found["odder"] == found["sub/odd"] == found["real"]
    assert found["config.json"] == digest_file(cache.parent.parent / "blobs" / "1")
    (cache / "folder").symlink_to("sub")
    with pytest.raises(UnreadableArtifact, match="folder"):
        digest_tree(cache, links=Links.INSIDE)
    (cache / "folder").unlink()
    (tmp_path / "secret").write_text("s")
    (cache / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(UnreadableArtifact, match=r"out is a link.*not a regular file"):
        digest_tree(cache, links=Links.INSIDE)


def test_blobs_beside_any_other_folder_are_none(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_text("one")
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "x").symlink_to("../../blobs/1")
    with pytest.raises(UnreadableArtifact, match="not a regular file"):
        digest_tree(tmp_path / "models" / "m", links=Links.BLOBS)
