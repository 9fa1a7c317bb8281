"""Nitro documents: of an enclave of our own, and two that AWS signed; altered, re-encoded and old ones are refused."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    HoldfastError,
    InvalidConfig,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.shielding.attestation import Evidence, Policy, verify
from holdfast.shielding.attestation.nitro import MAX_DOCUMENT, decode
from tests.attesting import (
    NONCE,
    NOW,
    flipped,
    nitro_chain,
    nitro_document,
    nitro_evidence,
    nitro_message,
    nitro_policy,
    p384,
    with_body,
)
from tests.authority import authority

REFUSED = (VerificationError, ArtifactError)


def test_the_document_of_an_enclave_is_accepted():
    claims = verify(nitro_evidence(user_data=b"hello"), nitro_policy(), nonce=NONCE, at=NOW)
    assert claims.measurements["pcr.0"] == "01" * 48
    assert claims.measurements["pcr.15"] == "00" * 48
    assert claims.identity == "i-0-enc0"
    assert claims.issued == NOW
    assert claims.details == {"user_data": b"hello".hex()}


def test_the_tag_that_aws_leaves_out_may_be_there():
    evidence = nitro_evidence()
    verify(with_body(evidence, b"\xd2" + evidence.body), nitro_policy(), nonce=NONCE, at=NOW)


def test_zeros_in_the_first_register_mean_debug_mode():
    pcrs = {index: bytes(48) for index in range(16)}
    policy = nitro_policy(any_code=True, measurements={})
    with pytest.raises(PolicyError, match="debugged"):
        verify(nitro_evidence(pcrs=pcrs), policy, nonce=NONCE, at=NOW)


@pytest.mark.parametrize("nonce", [None, b"", bytes(32), NONCE + b"\0"])
def test_another_nonce_or_none_is_a_replay(nonce: bytes | None):
    with pytest.raises(PolicyError, match="nonce"):
        verify(nitro_evidence(nonce=nonce), nitro_policy(), nonce=NONCE, at=NOW)


def test_a_document_is_refused_when_it_is_old_or_of_the_future():
    for minutes in (-4, 6):
        with pytest.raises(PolicyError, match="not within 180 s"):
            verify(nitro_evidence(), nitro_policy(max_age=180), nonce=NONCE, at=NOW + timedelta(minutes=minutes))


def test_the_enclave_s_certificate_lives_for_hours():
    with pytest.raises(SignerUntrusted, match="is valid from"):
        verify(nitro_evidence(), nitro_policy(max_age=1e9), nonce=NONCE, at=NOW + timedelta(hours=4))


def test_another_root_and_another_key_are_refused():
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(nitro_evidence(), nitro_policy(roots=()), nonce=NONCE, at=NOW)
    forged = nitro_message(cbor2.dumps(nitro_document()), key=p384())
    with pytest.raises(SignatureInvalid, match="Nitro document does not verify"):
        verify(Evidence(kind="nitro", body=forged), nitro_policy(), nonce=NONCE, at=NOW)
    stranger = authority("aws.nitro-enclaves", key=p384()).certificate.public_bytes(Encoding.DER)
    bundle = [stranger, nitro_document()["cabundle"][1]]
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(nitro_evidence(cabundle=bundle), nitro_policy(), nonce=NONCE, at=NOW)


def test_a_chain_in_the_wrong_order_is_refused():
    root, middle, _ = nitro_chain()
    bundle = [item.certificate.public_bytes(Encoding.DER) for item in (middle, root)]
    with pytest.raises(REFUSED):
        verify(nitro_evidence(cabundle=bundle), nitro_policy(), nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "SHA256"}, {"module_id": ""}, {"timestamp": -1}, {"timestamp": True + 2**60}, {"pcrs": {}},
        {"pcrs": {0: b"short"}}, {"pcrs": {40: bytes(48)}}, {"pcrs": [bytes(48)]}, {"certificate": b""},
        {"certificate": "text"}, {"cabundle": []}, {"cabundle": [b"x"] * 9}, {"cabundle": [7]}, {"nonce": "text"},
        {"user_data": bytes(513)}, {"public_key": bytes(1025)},
    ],
)  # fmt: skip
def test_a_signed_document_that_makes_no_sense_is_refused(change: dict[str, object]):
    with pytest.raises(UnreadableArtifact):
        verify(nitro_evidence(**change), nitro_policy(), nonce=NONCE, at=NOW)


def test_another_algorithm_and_unprotected_headers_are_refused():
    payload = cbor2.dumps(nitro_document())
    for header in ({1: -7}, {}, {1: -35, 4: b"kid"}):
        body = nitro_message(payload, header=header)
        with pytest.raises(UnreadableArtifact, match="ES384"):
            verify(Evidence(kind="nitro", body=body), nitro_policy(), nonce=NONCE, at=NOW)
    parts = cbor2.loads(nitro_message(payload))
    parts[1] = {1: -7}
    with pytest.raises(UnreadableArtifact, match="COSE_Sign1"):
        verify(Evidence(kind="nitro", body=cbor2.dumps(parts)), nitro_policy(), nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xa2\x61a\x00\x61a\x01",  # one key twice
        b"\x9f\x00\xff",  # a list of indefinite length
        b"\x5f\x41a\xff",
        b"\x18\x01",  # a longer integer than need be
        b"\x00\x00",  # something behind
        b"\xc0\x60",  # a tag
        b"\xf9\x00\x00",  # a float
        b"\x9b\x00\xff\xff\xff\xff\xff\xff\xff",  # 2**56 elements
        b"\x5b\x00\xff\xff\xff\xff\xff\xff\xff",  # 2**56 bytes
        b"\x81" * 5000 + b"\x00",  # deep
        b"\xd8\x1d\x05",  # a reference to what is not there
        b"",
        bytes(MAX_DOCUMENT + 1),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(raw: bytes):
    with pytest.raises(UnreadableArtifact):
        decode(raw, "document")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_the_reader_raises_nothing_but_our_errors(raw: bytes):
    with contextlib.suppress(HoldfastError):
        decode(raw, "document")
    with pytest.raises(HoldfastError):
        verify(Evidence(kind="nitro", body=raw), nitro_policy(), nonce=NONCE, at=NOW)


def test_flipped_bits_and_truncations_are_refused():
    evidence = nitro_evidence()
    for bit in range(0, 8 * len(evidence.body), 61):
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), nitro_policy(), nonce=NONCE, at=NOW)
    for length in range(0, len(evidence.body), 29):
        with pytest.raises(REFUSED):
            verify(with_body(evidence, evidence.body[:length]), nitro_policy(), nonce=NONCE, at=NOW)


@pytest.mark.slow
def test_many_single_flipped_bits_are_refused():
    evidence = nitro_evidence()
    for bit in range(0, 8 * len(evidence.body), 7):  # every byte, and each place in a byte
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), nitro_policy(), nonce=NONCE, at=NOW)


# ----- the real things

PRODUCTION = "sample_prod_doc.bin", datetime.fromtimestamp(1616018515.685, UTC)
WITH_NONCE = "sample_attestation_doc_full.bin", datetime.fromtimestamp(1706120065.635, UTC)


def test_a_real_document_verifies_up_to_aws_s_root_at_its_own_time(vectors: Path):
    name, time = PRODUCTION
    evidence = Evidence(kind="nitro", body=(vectors / "nitro" / name).read_bytes())
    pcr = "2d151586641b790f3b1b92b8f89678c3aa86e73d"
    claims = verify(evidence, Policy(kind="nitro", any_code=True, unfresh=True), nonce=None, at=time)
    assert claims.measurements["pcr.0"].startswith(pcr)
    assert claims.identity.startswith("i-078824548edcf6519")
    assert not claims.debug
    policy = Policy(kind="nitro", measurements={"pcr.0": (claims.measurements["pcr.0"],)})
    with pytest.raises(InvalidConfig, match="without a nonce"):
        verify(evidence, policy, nonce=None, at=time)
    with pytest.raises(PolicyError, match="nonce"):
        verify(evidence, policy, nonce=NONCE, at=time)  # it answers none


def test_a_real_debug_enclave_is_refused_by_default(vectors: Path):
    name, time = WITH_NONCE
    evidence = Evidence(kind="nitro", body=(vectors / "nitro" / name).read_bytes())
    with pytest.raises(PolicyError, match="debugged"):
        verify(evidence, Policy(kind="nitro", any_code=True, unfresh=True), nonce=None, at=time)
    claims = verify(evidence, Policy(kind="nitro", any_code=True, unfresh=True, debug=True), nonce=None, at=time)
    assert claims.report_data == b"Nonce\n"
    assert claims.details["user_data"] == b"Hello World!\n".hex()


def test_a_real_document_has_expired_a_day_later(vectors: Path):
    name, time = PRODUCTION
    evidence = Evidence(kind="nitro", body=(vectors / "nitro" / name).read_bytes())
    policy = Policy(kind="nitro", any_code=True, unfresh=True, max_age=1e9)
    with pytest.raises(SignerUntrusted, match="is valid from"):
        verify(evidence, policy, nonce=None, at=time + timedelta(days=1))


def test_flipped_bits_of_a_real_document_are_refused(vectors: Path):
    name, time = PRODUCTION
    evidence = Evidence(kind="nitro", body=(vectors / "nitro" / name).read_bytes())
    policy = Policy(kind="nitro", any_code=True, unfresh=True, debug=True)
    for bit in range(0, 8 * len(evidence.body), 101):
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), policy, nonce=None, at=time)
