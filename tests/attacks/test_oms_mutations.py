"""No mutation of a signature bundle is accepted unless it left the payload and the signers as they were."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import HoldfastError
from holdfast.evidence.beside import is_canonical
from holdfast.evidence.statement import PAYLOAD_TYPE
from holdfast.signing import generate_key, require_threshold, sign_artifact, verify_artifact, verify_listing
from holdfast.signing.envelope import Envelope, Signature, read_envelope, write_envelope
from holdfast.signing.oms.names import covers
from holdfast.signing.oms.serialization import HEX_DIGITS

from ..fuzz.fuzz_bundle import ForgeryFound, Target, run, targets, try_one
from ..fuzz.mutations import mutate, mutate_structure

KEY = generate_key()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    return targets(tmp_path_factory.mktemp("corpus"))


@given(st.integers(0, 2**64), st.integers(0, 4))
@settings(max_examples=600, deadline=None)
def test_no_mutation_is_an_accepted_forgery(corpus: list[Target], seed: int, which: int):
    assert try_one(corpus[which], mutate(Random(seed), corpus[which].data))


@given(data=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_at_all_do_anything_but_raise_our_own_errors(corpus: list[Target], data: bytes):
    for target in corpus:
        with pytest.raises(HoldfastError):
            verify_listing(data, target.trust, legacy=target.legacy)


@given(st.integers(0, 2**64), st.booleans())
@settings(max_examples=600, deadline=None)
def test_signed_nonsense_is_well_formed_or_raises_our_own_errors(corpus: list[Target], seed: int, cut: bool):
    """Whoever holds the key may sign any JSON; the reader never trips over it, and what it accepts makes sense."""
    payload, random = read_envelope(corpus[cut].data).payload, Random(seed)
    for _ in range(random.choice((1, 2, 4))):
        payload = mutate_structure(random, payload)
    value, material = KEY.seal(PAYLOAD_TYPE, payload)
    data = write_envelope(Envelope(payload, PAYLOAD_TYPE, (Signature(value),), material))
    try:
        listing = verify_listing(data, KEY.public, legacy=True).listing
    except HoldfastError:
        return
    assert all(is_canonical(name) or name == "." for name in listing.files)
    assert not any(covers(listing.how.ignore, name) for name in listing.files)
    assert {len(bytes.fromhex(item)) * 2 for item in listing.digests.values()} == {HEX_DIGITS[listing.how.hash]}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(value=_JSON, where=st.sampled_from(["mediaType", "verificationMaterial", "dsseEnvelope"]))
@settings(max_examples=300, deadline=None)
def test_any_json_in_place_of_a_part_is_refused(corpus: list[Target], value: object, where: str):
    bundle = json.loads(corpus[0].data)
    bundle[where] = value
    with pytest.raises(HoldfastError):
        verify_listing(json.dumps(bundle).encode(), corpus[0].trust)


def test_every_single_bit_of_payload_and_signature_counts(tmp_path: Path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "f").write_bytes(b"x")
    path = sign_artifact(tmp_path / "m", KEY)
    whole = json.loads(path.read_bytes())
    places = (("payload", whole["dsseEnvelope"]), ("sig", whole["dsseEnvelope"]["signatures"][0]))
    for name, holder in places:
        kept = holder[name]
        data = base64.b64decode(kept)
        for place in range(len(data)):
            for bit in range(8):
                changed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
                holder[name] = base64.b64encode(changed).decode()
                with pytest.raises(HoldfastError):
                    verify_listing(json.dumps(whole).encode(), KEY.public)
        holder[name] = kept
    verify_listing(json.dumps(whole).encode(), KEY.public)


def test_the_oracle_notices_a_forgery(corpus: list[Target], tmp_path: Path):
    """A bundle by the right key over another model is one, as far as the search is concerned."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "f").write_bytes(b"x")
    good = sign_artifact(tmp_path / "m", KEY).read_bytes()
    (tmp_path / "m" / "f").write_bytes(b"y")
    other = sign_artifact(tmp_path / "m", KEY).read_bytes()
    with pytest.raises(ForgeryFound):
        try_one(Target("x", good, require_threshold(KEY.public)), other)


def test_the_search_repeats_and_counts(tmp_path: Path):
    result = run(500, seed=1)
    kinds = {key: count for key, count in result.items() if key not in ("mutations", "forgeries", "cpu_seconds")}
    assert sum(kinds.values()) == 500
    assert kinds["SignatureInvalid"] > 50
    assert kinds["UnreadableArtifact"] > 50


def test_a_mutated_bundle_on_disk_is_refused_by_the_verb_as_well(tmp_path: Path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "f").write_bytes(b"x")
    path = sign_artifact(tmp_path / "m", KEY)
    whole, random = path.read_bytes(), Random(0)
    for _ in range(200):
        data = mutate(random, whole)
        path.write_bytes(data)
        try:
            proof = verify_artifact(tmp_path / "m", KEY.public)
        except HoldfastError:
            continue
        assert proof.statement == verify_listing(whole, KEY.public).statement
