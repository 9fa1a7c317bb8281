"""TPM 2.0 quotes of a key of our own; those of a running software TPM are in the tests of the process world."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
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
from holdfast.evidence import canonical
from holdfast.shielding.attestation import verify
from holdfast.shielding.attestation.tpm_structures import read_attestation, read_key, read_signature
from tests.attesting import (
    NONCE,
    NOW,
    TPM_EVENTS,
    flipped,
    rsa_key,
    tpm_attestation_key,
    tpm_evidence,
    tpm_key,
    tpm_name,
    tpm_policy,
    tpm_quote,
    tpm_replay,
    tpm_signature,
    with_body,
    with_part,
)
from tests.authority import authority, issue

REFUSED = (VerificationError, ArtifactError)


def test_a_quote_of_the_named_key_is_accepted_and_its_registers_are_explained():
    claims = verify(tpm_evidence(), tpm_policy(), nonce=NONCE, at=NOW)
    assert claims.measurements == {
        "pcr.0": "31" * 32, "pcr.12": tpm_replay().hex(), "event.code": "21" * 32, "event.model": "22" * 32,
    }  # fmt: skip
    assert claims.report_data == NONCE
    assert claims.versions == {"firmware": 0x20240101, "resets": 7, "restarts": 1}


def test_an_rsa_key_works_alike():
    key = rsa_key("tpm")
    claims = verify(tpm_evidence(key=key), tpm_policy(keys=(tpm_name(tpm_key(key)),)), nonce=NONCE, at=NOW)
    assert claims.identity == tpm_name(tpm_key(key))


def test_the_name_of_a_key_is_the_tpm_s_own():
    public = tpm_key(tpm_attestation_key())
    assert read_key(public).name == tpm_name(public) == read_key(public[2:]).name


def test_another_key_nonce_or_measurement_is_refused():
    with pytest.raises(SignerUntrusted, match="which the policy does not name"):
        verify(tpm_evidence(), tpm_policy(keys=("000b" + "00" * 32,)), nonce=NONCE, at=NOW)
    with pytest.raises(InvalidConfig, match="names the keys or the roots"):
        verify(tpm_evidence(), tpm_policy(keys=()), nonce=NONCE, at=NOW)
    for nonce in (bytes(32), NONCE + b"\0", NONCE[:-1]):
        with pytest.raises(PolicyError, match="another nonce"):
            verify(tpm_evidence(), tpm_policy(), nonce=nonce, at=NOW)
    with pytest.raises(PolicyError, match=r"event\.code is 2121"):
        verify(tpm_evidence(), tpm_policy(measurements={"event.code": ("22" * 32,)}), nonce=NONCE, at=NOW)


def test_a_key_that_a_certificate_vouches_for_is_accepted():
    root = authority("TPM maker")
    leaf = issue("attestation key", root, key=tpm_attestation_key())
    evidence = with_part(tpm_evidence(), "chain", leaf.pem + root.pem)
    policy = tpm_policy(keys=(), roots=(root.pem,))
    verify(evidence, policy, nonce=NONCE, at=NOW)
    with pytest.raises(PolicyError, match="demands a revocation list"):
        verify(evidence, tpm_policy(keys=(), roots=(root.pem,), revocation=True), nonce=NONCE, at=NOW)
    with pytest.raises(SignerUntrusted, match="for another attestation key"):
        verify(with_part(evidence, "chain", issue("other", root).pem + root.pem), policy, nonce=NONCE, at=NOW)
    with pytest.raises(UnreadableArtifact, match="without its chain"):
        verify(tpm_evidence(), policy, nonce=NONCE, at=NOW)


def test_a_certificate_for_something_else_vouches_for_no_attestation_key():
    """The attack: a key of one's own, certified for TLS by an authority that certifies attestation keys as well."""
    root, key = authority("house"), tpm_attestation_key()
    policy = tpm_policy(keys=(), roots=(root.pem,))
    for usages, good in (([ExtendedKeyUsageOID.SERVER_AUTH], False), ([x509.ObjectIdentifier("2.23.133.8.3")], True)):
        leaf = issue("key", root, key=key, extensions=((x509.ExtendedKeyUsage(usages), False),))
        evidence = with_part(tpm_evidence(), "chain", leaf.pem + root.pem)
        if good:
            verify(evidence, policy, nonce=NONCE, at=NOW)
        else:
            with pytest.raises(SignerUntrusted, match="not for an attestation key"):
                verify(evidence, policy, nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (0x00040072, "not restricted"), (0x00010072, "not sign"), (0x00050070, "not fixedTPM"),
        (0x00050052, "not sensitiveDataOrigin"), (0x00070072, "also decrypts"), (0x00050062, "not fixedParent"),
    ],
)  # fmt: skip
def test_a_key_that_could_sign_something_that_only_looks_like_a_quote_is_refused(attributes: int, words: str):
    public = tpm_key(tpm_attestation_key(), attributes)
    evidence = with_part(tpm_evidence(), "ak", public)
    with pytest.raises(SignerUntrusted, match=words):
        verify(evidence, tpm_policy(keys=(tpm_name(public),)), nonce=NONCE, at=NOW)


@pytest.mark.parametrize("wrong", [{"magic": 0}, {"kind": 0x8017}])
def test_what_a_tpm_signs_besides_quotes_is_refused(wrong: dict[str, Any]):
    quote = tpm_quote({12: tpm_replay()}, NONCE, **wrong)
    evidence = with_part(with_body(tpm_evidence(), quote), "signature", tpm_signature(tpm_attestation_key(), quote))
    with pytest.raises(UnreadableArtifact):
        verify(evidence, tpm_policy(), nonce=NONCE, at=NOW)


def test_registers_that_were_not_signed_are_refused():
    values = canonical.dumps({"sha256": {"0": "32" * 32, "12": tpm_replay().hex()}})
    with pytest.raises(SignatureInvalid, match="not those that the TPM signed"):
        verify(with_part(tpm_evidence(), "pcrs", values), tpm_policy(), nonce=NONCE, at=NOW)
    for text in (b"{}", b"[]", b'{"sha256":{"0":"31"}}', b"nothing"):
        with pytest.raises(UnreadableArtifact):
            verify(with_part(tpm_evidence(), "pcrs", text), tpm_policy(), nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    "events",
    [
        [*TPM_EVENTS, ("more", b"\x23" * 32)], TPM_EVENTS[:1], TPM_EVENTS[::-1],
        [("code", b"\x21" * 32), ("model", b"\x24" * 32)],
        [("model", b"\x21" * 32), ("code", b"\x22" * 32)],  # what was measured as the model passed off as the code
        [("code", b"\x21" * 32), ("other", b"\x22" * 32)],
    ],
)  # fmt: skip
def test_a_log_that_does_not_explain_the_register_is_refused(events: Any):
    evidence = tpm_evidence(registers={0: b"\x31" * 32, 12: tpm_replay()}, events=events)
    with pytest.raises(SignatureInvalid, match="does not explain"):
        verify(evidence, tpm_policy(), nonce=NONCE, at=NOW)


def test_a_log_about_a_register_that_was_not_quoted_is_refused():
    evidence = tpm_evidence(registers={0: b"\x31" * 32})
    with pytest.raises(SignatureInvalid, match=r"does not explain pcr\.12"):
        verify(evidence, tpm_policy(), nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    "log",
    [
        b"{}", b"[7]", b'[{"name":"a"}]', b'[{"digest":"00","name":"code","pcr":12}]',
        b'[{"digest":"' + b"21" * 32 + b'","name":"Code!","pcr":12}]',
        b'[{"digest":"' + b"21" * 32 + b'","name":"code","pcr":99}]',
        b'[{"digest":"' + b"21" * 32 + b'","name":"code","pcr":true}]',
        canonical.dumps([{"digest": "21" * 32, "name": "code", "pcr": 12}] * 2),
    ],
)  # fmt: skip
def test_a_log_that_makes_no_sense_is_refused(log: bytes):
    with pytest.raises(UnreadableArtifact):
        verify(with_part(tpm_evidence(), "log", log), tpm_policy(), nonce=NONCE, at=NOW)


@pytest.mark.parametrize("part", ["body", "signature", "ak"])
def test_every_flipped_bit_and_every_truncation_is_refused(part: str):
    evidence = tpm_evidence()
    data = evidence.body if part == "body" else evidence.part(part)
    damaged = [flipped(data, bit) for bit in range(8 * len(data))] + [data[:size] for size in range(len(data))]
    for bad in [*damaged, data + b"\0"]:
        changed = with_body(evidence, bad) if part == "body" else with_part(evidence, part, bad)
        with pytest.raises(REFUSED):
            verify(changed, tpm_policy(), nonce=NONCE, at=NOW)


def test_a_signature_in_another_scheme_than_the_key_s_is_refused():
    quote = tpm_evidence().body
    changed = with_part(tpm_evidence(), "signature", tpm_signature(rsa_key("tpm"), quote))
    with pytest.raises(SignatureInvalid, match="another scheme"):
        verify(changed, tpm_policy(), nonce=NONCE, at=NOW)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_the_readers_raise_nothing_but_our_errors(data: bytes):
    for reader in (read_attestation, read_key, read_signature):
        with pytest.raises(HoldfastError):
            reader(data)


@settings(deadline=None)
@given(st.data())
def test_damaged_structures_raise_nothing_but_our_errors(data: st.DataObject):
    evidence = tpm_evidence()
    readers = {"signature": read_signature, "ak": read_key}
    parts = [(reader, evidence.part(name)) for name, reader in readers.items()]
    for reader, raw in [(read_attestation, evidence.body), *parts]:
        damaged = bytearray(raw)
        for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
            damaged[place] = data.draw(st.integers(0, 255))
        try:
            reader(bytes(damaged))
        except HoldfastError:
            continue


@pytest.mark.parametrize("elsewhere", [8, 11, 13, 16, 23])
def test_events_that_are_extended_into_another_register_afterwards_are_not_those_of_the_world(elsewhere: int):
    """The attack: run other code, which is in register 12, then extend what the policy asks for where nobody looks."""
    did = tpm_replay([("code", b"\x66" * 32), ("model", b"\x22" * 32)])
    for registers in ({12: did, elsewhere: tpm_replay()}, {elsewhere: tpm_replay()}):
        evidence = tpm_evidence(registers=registers)
        log = [{"digest": digest.hex(), "name": name, "pcr": elsewhere} for name, digest in TPM_EVENTS]
        with pytest.raises(UnreadableArtifact, match=f"for register {elsewhere}, which no world extends"):
            verify(with_part(evidence, "log", canonical.dumps(log)), tpm_policy(), nonce=NONCE, at=NOW)
