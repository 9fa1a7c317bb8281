"""Laws of lineage statements and of the checkpoint chain, for any content."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ArtifactError, VerificationError
from holdfast.evidence.chain import Chain
from holdfast.evidence.provenance import Provenance, Resource, build_type
from holdfast.evidence.statement import Statement, Subject

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)
WORD = st.text(string.ascii_lowercase, min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | WORD, lambda inner: st.lists(inner, max_size=3)
)
RESOURCES = st.builds(
    Resource, WORD, st.dictionaries(WORD, HEX, max_size=3), WORD, WORD, st.dictionaries(WORD.map("x{}".format), JSON)
)
PROVENANCES = st.builds(
    Provenance,
    build_type=WORD.map(build_type),
    parameters=st.dictionaries(WORD, JSON, max_size=3),
    inputs=st.lists(RESOURCES, max_size=4).map(tuple),
    byproducts=st.lists(RESOURCES, max_size=2).map(tuple),
    started=st.just("") | st.just("2026-01-01T00:00:00Z"),
)
LINKS = st.lists(st.tuples(WORD, HEX, st.integers(0, 99)), min_size=1, max_size=6)


@given(PROVENANCES, HEX)
@settings(max_examples=100, deadline=None)
def test_provenance_survives_its_statement(made: Provenance, digest: str) -> None:
    data = made.statement(Subject("m", {"blake3": digest})).to_bytes()
    again = Statement.from_bytes(data)
    assert Provenance.from_statement(again).statement(*again.subjects).to_bytes() == data


def chain_of(links: list[tuple[str, str, int]]) -> Chain:
    chain = Chain.of({"a": 1})
    for link in links:
        chain = chain.add(*link)
    return chain


@given(LINKS, st.data())
@settings(max_examples=100, deadline=None)
def test_no_changed_byte_of_a_chain_keeps_its_head(links: list[tuple[str, str, int]], draw: st.DataObject) -> None:
    chain = chain_of(links)
    data = bytearray(chain.to_bytes())
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] ^= draw.draw(st.integers(1, 255))
    try:
        changed = Chain.from_bytes(bytes(data))
    except (ArtifactError, VerificationError):
        return
    assert changed == chain or changed.head != chain.head


@given(LINKS, LINKS)
@settings(max_examples=100, deadline=None)
def test_different_chains_have_different_heads(
    one: list[tuple[str, str, int]], two: list[tuple[str, str, int]]
) -> None:
    assert (chain_of(one).head == chain_of(two).head) == (one == two)
