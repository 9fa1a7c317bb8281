"""The one read pass: whatever is fed, on however many threads, each hash is that of the bytes."""

from __future__ import annotations

import hashlib
import os
import random
import resource
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.evidence import hashing
from holdfast.evidence.digest import Wanted, digest_file, hash_tree
from holdfast.evidence.hashing import Spans, Whole, read_pass, windows

SIZES = (0, 1, 1023, 1024, 1025, hashing.CHUNK - 1, hashing.CHUNK, hashing.CHUNK + 1, 9 * hashing.CHUNK + 77)


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_every_hash_of_a_pass_is_that_of_the_bytes(size: int, threads: int, tmp_path: Path):
    data = content(size)
    (tmp_path / "f").write_bytes(data)
    wanted = Wanted(algorithms=("sha256", "blake2b", "blake3"), shards=("sha256", 700_001))
    (found,) = hash_tree(tmp_path / "f", wanted, threads=threads).values()
    assert found.size == size
    assert found.digests == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "blake2b": hashlib.blake2b(data).hexdigest(),
        "blake3": blake3(data).hexdigest(),
    }
    pieces = [data[start : start + 700_001] for start in range(0, size, 700_001)]
    assert found.shards == tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=12), st.lists(st.integers(1, 200), max_size=20), st.randoms())
def test_spans_are_hashed_wherever_the_chunks_end(lengths: list[int], cuts: list[int], shuffler: random.Random):
    data = content(sum(lengths) + 50)
    spans, place = [], 0
    for number, length in enumerate(lengths):
        place += number % 3  # gaps
        spans.append((place, length))
        place += length
    shuffler.shuffle(spans)
    data = data.ljust(place, b"x")
    sink, start = Spans(spans), 0
    for cut in [*cuts, len(data)]:
        sink.update(memoryview(data)[start : start + cut])
        start = min(start + cut, len(data))
    assert sink.digests() == tuple(blake3(data[o : o + n]).hexdigest() for o, n in spans)


def test_a_span_beyond_the_end_is_an_error():
    sink = Spans([(0, 4), (4, 4)])
    sink.update(memoryview(b"1234567"))
    with pytest.raises(UnreadableArtifact, match="ends before its bytes 4"):
        sink.digests()


def test_windows_cover_without_gaps():
    assert list(windows(10, 4)) == [(0, 4), (4, 4), (8, 2)]
    assert list(windows(0, 4)) == []


class Meddler:
    """Changes the file while the pass reads it."""

    cost = 0.0

    def __init__(self, path: Path, change: bytes, at: int) -> None:
        self.path, self.change, self.at = path, change, at

    def update(self, data: memoryview, /) -> None:
        descriptor = os.open(self.path, os.O_WRONLY)
        os.pwrite(descriptor, self.change, self.at)
        os.close(descriptor)


@pytest.mark.parametrize("at", [0, 3 * hashing.CHUNK])
def test_a_file_that_changes_or_grows_meanwhile_is_refused(at: int, tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(bytes(3 * hashing.CHUNK))
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(UnreadableArtifact, match="changed while it was read"):
        read_pass(descriptor, [Whole("blake3"), Meddler(path, b"x", at)])
    os.close(descriptor)


def test_an_error_on_another_thread_reaches_the_caller(tmp_path: Path):
    class Broken:
        cost = 5.0

        def update(self, data: memoryview, /) -> None:
            raise UnreadableArtifact("broken on purpose")

    (tmp_path / "f").write_bytes(bytes(12 * hashing.CHUNK))
    with (tmp_path / "f").open("rb") as file, pytest.raises(UnreadableArtifact, match="on purpose"):
        read_pass(file.fileno(), [Whole("sha256"), Broken()], threads=2)


def test_the_costliest_hash_gets_a_thread_of_its_own():
    sinks = [Whole("blake3"), Whole("sha256"), Whole("blake3")]
    assert [[item.algorithm for item in group] for group in hashing._groups(sinks, 2)] == [
        ["blake3", "blake3"],
        ["sha256"],
    ]
    assert len(hashing._groups(sinks[:1], 8)) == 1  # BLAKE3 alone gains less than the second core would pay
    assert len(hashing._groups(sinks, 1)) == 1


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 28)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest_file(tmp_path / "f", threads=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


def test_more_can_listen_to_the_same_pass(tmp_path: Path):
    class Count:
        total = 0

        def update(self, data: memoryview, /) -> None:
            self.total += len(data)

    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content(5 << 20))
    found = hash_tree(tmp_path, Wanted(algorithms=(), listeners=lambda name, size: [Count()]), threads=2)
    assert {name: item.listeners[0].total for name, item in found.items()} == {"a": 5 << 20, "b": 5 << 20}


@pytest.mark.parametrize("options", [{"algorithms": ("md5",)}, {"shards": ("crc", 5)}, {"shards": ("sha256", 0)}])
def test_unknown_hashes_and_empty_shards_are_refused(options: dict):
    with pytest.raises(InvalidConfig):
        Wanted(**options)


def test_a_process_that_was_forked_off_reads_into_memory_of_its_own(tmp_path: Path):
    """The attack: while a changed file is hashed here, a forked worker hashes the genuine one into the same memory."""
    (tmp_path / "f").write_bytes(content(1000))
    digest_file(tmp_path / "f")  # this thread has its buffer from now on
    before = bytes(hashing._own_buffer()[:1000])
    if (child := os.fork()) == 0:
        hashing._own_buffer()[:1000] = bytes(1000)
        os._exit(0)
    os.waitpid(child, 0)
    assert bytes(hashing._own_buffer()[:1000]) == before == content(1000)
