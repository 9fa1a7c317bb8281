"""No mutation of anything that others wrote is accepted unless all that is used of it stays as it was."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from dataclasses import replace
from random import Random

import pytest

from holdfast.errors import HoldfastError, UnreadableArtifact
from holdfast.evidence.containers.safetensors import read_header
from holdfast.evidence.record import Record
from holdfast.evidence.statement import Subject

from ..fuzz.__main__ import every_target
from ..fuzz.driver import ForgeryFound, Target, mutation, run
from ..fuzz.folder import Folder
from ..fuzz.fuzz_atheris import NAMES, reader
from ..fuzz.fuzz_atheris import main as guided

TRIES = 120


@pytest.mark.parametrize("place", range(len(every_target())))
def test_no_mutation_is_an_accepted_forgery(place: int) -> None:
    target = every_target()[place]()
    counts = run(target, TRIES, seed=1)
    refused = TRIES - counts.get("unchanged", 0) - counts.get("accepted", 0) - counts.get("accepted, as signed", 0)
    assert counts["forgeries"] == 0
    assert refused > TRIES // 4, counts  # a fuzzer that damages nothing would pass every other test


def test_targets_have_names_of_their_own() -> None:
    names = [make().name for make in every_target()]
    assert len(set(names)) == len(names)


def lenient(data: bytes) -> int:
    """A reader that looks at the first byte alone, and not at all into long inputs."""
    if len(data) > 8:
        raise RuntimeError("it never expected this")
    if data[:1] != b"a":
        raise UnreadableArtifact("no a")
    return len(data)


def test_a_forgery_is_found() -> None:
    target = Target(name="lenient", good=b"abc", damage=lambda random, good: good + b"d", use=lenient)
    with pytest.raises(ForgeryFound, match="lenient: b'abcd'"):
        run(target, 1)
    refused = replace(target, damage=lambda random, good: b"b")
    assert run(refused, 3)["UnreadableArtifact"] == 3
    assert run(replace(target, same=False), 3)["accepted, as signed"] == 3
    assert run(replace(target, damage=lambda random, good: good), 3)["unchanged"] == 3
    assert run(refused, 3, seconds=0)["mutations"] == 0


def test_a_crash_is_not_taken_for_a_refusal_and_says_how_to_see_it_again() -> None:
    target = Target(name="lenient", good=b"abc", damage=lambda random, good: good * 9, use=lenient)
    with pytest.raises(RuntimeError) as caught:
        run(target, 1, seed=5)
    assert caught.value.__notes__ == ["lenient, mutation 0 of seed 5"]
    assert mutation(target, 5, 0) == b"abc" * 9


@pytest.mark.parametrize("name", NAMES)
def test_what_coverage_guides_reads_what_it_begins_with(name: str) -> None:
    read, damage, seed = reader(name)
    read(seed)
    changed = {damage(Random(number), seed) for number in range(20)}
    assert len(changed) > 10
    for data in changed:
        with contextlib.suppress(HoldfastError):
            read(data)


def test_without_atheris_nothing_is_fuzzed_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["fuzz_atheris"])
    assert guided() == 3
    assert "nothing was fuzzed" in capsys.readouterr().err


def test_a_folder_holds_exactly_the_files_it_is_given() -> None:
    folder = Folder()
    for files in ({"a": b"1", "sub/deep/b": b"2"}, {"a": b"3"}, {"sub": b"4"}, {"sub/b": b"5", "a": b"3"}):
        if "sub/b" in files:
            folder.hold({})
        path = folder.hold(files)
        found = {item.relative_to(path).as_posix(): item.read_bytes() for item in path.rglob("*") if item.is_file()}
        assert found == files
        assert {item.name for item in path.iterdir()} == {name.split("/")[0] for name in files}


def test_a_tensor_of_countless_sides_is_refused_before_they_are_multiplied() -> None:
    """The product of so many numbers would be millions of bits long, and its cost grows with the square of that."""
    shape = [2**62] * 50_000
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    data, begun = struct.pack("<Q", len(header)) + header + bytes(4), time.process_time()
    with pytest.raises(UnreadableArtifact) as caught:
        read_header(lambda offset, length: data[offset : offset + length], len(data))
    assert str(caught.value) == "a has 50000 dimensions, more than 64"
    assert time.process_time() - begun < 3  # it took 13 seconds, and minutes with a header of a few megabytes


def test_a_tensor_of_as_many_sides_as_numpy_has_is_read() -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [1] * 64, "data_offsets": [0, 1]}}).encode()
    data = struct.pack("<Q", len(header)) + header + b"x"
    (slot,) = read_header(lambda offset, length: data[offset : offset + length], len(data)).slots
    assert (len(slot.shape), slot.length) == (64, 1)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("procedure", "x", "procedure is no object"),
        ("facts", [1], "facts is no object"),
        ("measured", None, "measured is no object"),
        ("inputs", {"data": 7}, "map text to text"),
        ("tool", {"name": None}, "map text to text"),
        ("lineage", {"a": 1}, "lineage is no list"),
        ("lineage", ["train"], "lineage is no list"),
        ("seed", 7, "seed is no text"),
    ],
)
def test_a_record_with_a_field_of_another_kind_is_refused_when_it_is_read(
    field: str, value: object, words: str
) -> None:
    """It was accepted, and whoever wrote or showed it later ended in a ValueError."""
    record = Record(kind="bit-errors", subject=Subject("m", {"blake3": "1" * 64}), procedure={}, measured={})
    assert Record.from_json(record.to_json()) == record
    with pytest.raises(UnreadableArtifact, match=words):
        Record.from_json(record.to_json() | {field: value})
