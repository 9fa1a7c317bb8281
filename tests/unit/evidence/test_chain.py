"""The checkpoint chain: what a link binds, and that nothing in it can change alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from holdfast.errors import DigestMismatch, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.chain import Chain, Link

A, B, C = ("aa" * 32, "bb" * 32, "cc" * 32)


def chain() -> Chain:
    return Chain.of({"recipe": "standard"}).add("one", A, 1).add("two", B, 2).add("three", C, 3)


def test_the_head_is_the_documented_hash_of_the_last_link() -> None:
    start = blake3(b'{"recipe":"standard"}', derive_key_context="holdfast 2026 checkpoint chain start v1").hexdigest()
    one = canonical.dumps({"name": "one", "content": A, "step": 1, "previous": start})
    head = blake3(one, derive_key_context="holdfast 2026 checkpoint chain link v1").hexdigest()
    assert Chain.of({"recipe": "standard"}).head == start
    assert Chain.of({"recipe": "standard"}).add("one", A, 1).head == head


def test_it_reads_back_what_it_wrote() -> None:
    assert Chain.from_bytes(chain().to_bytes()) == chain()
    assert Chain.from_bytes(Chain.of({}).to_bytes()) == Chain.of({})


@pytest.mark.parametrize("field", ["name", "content", "step", "previous"])
def test_every_field_of_a_link_moves_the_head(field: str) -> None:
    link = chain().links[-1]
    other = Link(**(link.to_json() | {field: 9 if field == "step" else "dd" * 32}))
    assert other.digest != link.digest


def swap(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], lines[3]]


def edit(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2].replace(B, C), lines[3]]


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], type[Exception]]] = {
    "swapped": (swap, DigestMismatch),
    "edited": (edit, DigestMismatch),
    "removed": (lambda lines: [lines[0], lines[1], lines[3]], DigestMismatch),
    "another start": (lambda lines: [lines[0].replace(chain().start, A), *lines[1:]], DigestMismatch),
    "another type": (lambda lines: [lines[0].replace("/v1", "/v2"), *lines[1:]], UnsupportedVersion),
    "no header": (lambda lines: lines[1:], UnsupportedVersion),
    "empty": (lambda lines: [], UnsupportedVersion),
    "extra field": (lambda lines: [*lines, json.dumps({**json.loads(lines[-1]), "x": 1})], UnreadableArtifact),
    "a boolean step": (lambda lines: [*lines, json.dumps({**json.loads(lines[-1]), "step": True})], UnreadableArtifact),
    "duplicate key": (lambda lines: [*lines[:3], lines[3][:-1] + ',"step":3}'], UnreadableArtifact),
}


@pytest.mark.parametrize("name", list(EDITS))
def test_a_changed_chain_is_refused(name: str) -> None:
    change, error = EDITS[name]
    lines = change(chain().to_bytes().decode().splitlines())
    with pytest.raises(error):
        Chain.from_bytes("\n".join(lines).encode())


def test_going_back_to_a_checkpoint_forgets_what_came_after() -> None:
    assert chain().upto("two", B).head == Chain.of({"recipe": "standard"}).add("one", A, 1).add("two", B, 2).head


def test_an_unknown_or_changed_checkpoint_is_refused() -> None:
    with pytest.raises(DigestMismatch, match="no checkpoint"):
        chain().upto("four", A)
    with pytest.raises(DigestMismatch, match="not the checkpoint"):
        chain().upto("two", A)


def test_the_documented_vector_holds() -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats" / "lineage.md").read_text()
    value = json.loads(page.partition("```json\n")[2].partition("```")[0])
    found = Chain.of({"recipe": "standard"}).add("one", A, 1)
    assert (found.start, found.links[0].to_json(), found.head) == (value["start"], value["link"], value["head"])
