"""A counter's file: one holder and one number by whatever path it is reached, and through any crash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import IntegrityError, StorageError
from holdfast.shielding.sealing import FileCounter, MaskStream
from tests.unit.shielding.test_sealing import KEY, Crash


def opened(path: Path) -> FileCounter:
    return FileCounter(path, KEY, purpose="masks")


@pytest.mark.parametrize("alias", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_leads_to_the_same_holder_and_the_same_number(tmp_path: Path, alias: Callable[..., None]) -> None:
    path, other = tmp_path / "counter", tmp_path / "link"
    counter = opened(path)
    masks = MaskStream(KEY, counter)
    taken = set(masks.reserve(10))
    alias(path, other)
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot be held"):
            opened(other)
        taken |= set(masks.reserve(2000))  # and what is written in between does not part them
    counter.close()
    again = opened(other)
    assert (again.identity, again.read()) == (counter.identity, counter.read())
    assert taken.isdisjoint(MaskStream(KEY, again).reserve(5000))
    with pytest.raises(StorageError, match="cannot be held"):
        opened(path)


def test_a_link_to_nothing_makes_the_file_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "counter")
    opened(tmp_path / "link").advance(3, after=0)
    with pytest.raises(StorageError, match="cannot be held"):
        opened(tmp_path / "counter")


def test_another_process_cannot_hold_it_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    counter = opened(tmp_path / "counter")
    counter.advance(5, after=0)
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]
    attempt = (
        "import sys; from holdfast.shielding import FileCounter as F; F(sys.argv[1], bytes(range(32)), purpose='masks')"
    )
    done = subprocess.run(
        [sys.executable, "-c", attempt, tmp_path / "counter"], capture_output=True, text=True, check=False
    )
    assert "cannot be held" in done.stderr


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_is_taken_away_while_it_is_held_counts_no_further(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "counter"
    counter = opened(path)
    counter.advance(7, after=0)
    copy = path.read_bytes()
    path.unlink()
    if replace:
        path.write_bytes(copy)
    with pytest.raises(IntegrityError, match="removed or replaced while it was held"):
        counter.advance(8, after=7)
    assert counter.read() == 7
    assert (opened(path).identity == counter.identity) is replace


def test_whatever_crashes_the_number_never_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write is cut after some bytes, again and again, also the one that mends what the last crash left."""
    write, path, number = os.pwrite, tmp_path / "counter", 0
    first = opened(path)
    identity = first.identity
    first.close()
    for cut in (0, 1, 30, 56, 57):
        for left in (0, 0, 1, 0, 1, 1, 2, 0):
            remaining = [left]

            def torn(file: int, data: bytes, place: int, cut: int = cut, remaining: list[int] = remaining) -> int:
                if not remaining[0]:
                    write(file, data[:cut] + b"\x00" * (len(data) - cut), place)
                    raise Crash
                remaining[0] -= 1
                return write(file, data, place)

            monkeypatch.setattr(os, "pwrite", torn)
            counter = None
            try:
                counter = opened(path)
                assert counter.read() >= number
                counter.advance(number := counter.read() + 10, after=counter.read())
            except Crash:
                number = counter.read() if counter else number  # what was asked for may have been skipped, or not
            finally:
                if counter is not None:
                    counter.close()
                monkeypatch.setattr(os, "pwrite", write)
    last = opened(path)
    assert (last.identity, last.read() >= number > 0) == (identity, True)


def test_one_damaged_copy_of_the_number_takes_nothing_back(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    counter = opened(path)
    counter.advance(9, after=0)
    counter.close()
    whole = path.read_bytes()
    for place in (0, 20, 56, 4096, 4120, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        mended = opened(path)
        assert mended.read() == 9
        mended.close()
    other = FileCounter(tmp_path / "other", KEY, purpose="masks")
    path.write_bytes(whole[:4096] + (tmp_path / "other").read_bytes()[4096:])
    with pytest.raises(IntegrityError, match="put together from two counters"):
        opened(path)
    other.close()


def test_a_pipe_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "counter")
    with pytest.raises((IntegrityError, StorageError)):
        opened(tmp_path / "counter")
