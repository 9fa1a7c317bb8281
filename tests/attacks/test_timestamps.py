"""Timestamps that must not count: of something else, by somebody else, at another time, or altered."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import HoldfastError, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.signing.envelope import Envelope
from holdfast.signing.timestamps import MAX_TOKENS, verify_timestamp
from tests.authority import authority, sealed, signer, trusting
from tests.timestamping import CLOCK, Tsa, open_authority, stamper, validity

ROOT = authority("root", **validity(-100, 100))
LEAF = signer(ROOT, **validity(-1, 1))
YEAR = timedelta(days=365)
SOON = timedelta(hours=12)  # CLOCK stood still when the tests were imported; a long run goes on


@pytest.fixture
def tsa(tmp_path: Path) -> Tsa:
    return open_authority(tmp_path / "tsa")


def stamped(*tokens: bytes) -> Envelope:
    good = sealed(LEAF)
    return dataclasses.replace(good, material=dataclasses.replace(good.material, timestamps=tokens))


def refused(words: str, token: bytes, root: Any, kind: type[HoldfastError] = SignerUntrusted, **options: Any) -> None:
    with pytest.raises(kind, match=words):
        verify_timestamp(token, b"signature", (root.certificate,), **({"now": CLOCK + SOON} | options))


def test_a_timestamp_of_another_signature_saves_no_expired_certificate(tsa: Tsa):
    other = tsa.stamp(sealed(LEAF, payload=b"another").signatures[0].value)
    with pytest.raises(SignatureInvalid, match="of another signature"):
        trusting(ROOT, at=CLOCK + YEAR, tsa_roots=(tsa.root.certificate,)).accept(stamped(other), 0)


def test_a_timestamp_of_an_authority_nobody_chose(tsa: Tsa):
    refused("does not lead to a trusted root", tsa.stamp(b"signature"), ROOT)
    forged = authority("tsa root", **validity())
    refused("not signed by the key of", tsa.stamp(b"signature"), forged)


def test_a_timestamp_after_the_certificate_ended(tsa: Tsa):
    late = signer(ROOT, **validity(-9, -1))
    good = sealed(late)
    token = tsa.stamp(good.signatures[0].value)
    envelope = dataclasses.replace(good, material=dataclasses.replace(good.material, timestamps=(token,)))
    at = CLOCK - timedelta(days=2)  # within the certificate, before the timestamp: it would pass without
    with pytest.raises(SignerUntrusted, match="future"):
        trusting(ROOT, at=at, tsa_roots=(tsa.root.certificate,)).accept(envelope, 0)
    with pytest.raises(SignerUntrusted, match="expired"):
        trusting(ROOT, at=CLOCK + SOON, tsa_roots=(tsa.root.certificate,)).accept(envelope, 0)


def test_a_timestamp_from_the_future(tsa: Tsa):
    refused("from the future", tsa.stamp(b"signature"), tsa.root, now=CLOCK - timedelta(hours=1))


@pytest.mark.parametrize(("start", "end", "words"), [(-9, -1, "expired"), (1, 9, "is not valid before")])
def test_a_timestamp_outside_its_authoritys_certificate(tmp_path: Path, start: int, end: int, words: str):
    root = authority("tsa root", **validity(-100, 100))
    tsa = open_authority(tmp_path / "tsa", stamper(root, **validity(start, end)), root)
    refused(words, tsa.stamp(b"signature"), root)


def swap_certificate(tsa: Tsa, subject: str = "tsa", **options: Any) -> bytes:
    """A token with another certificate of the same key, issuer and serial: openssl itself would not sign with it."""
    token, old = tsa.stamp(b"signature"), tsa.holder.certificate.public_bytes(Encoding.DER)
    assert token.count(old) == 1
    for _ in range(9999):  # ECDSA signatures differ in length by a byte or two
        new = stamper(tsa.root, subject, key=tsa.holder.key, serial=tsa.holder.certificate.serial_number, **options)
        data = new.certificate.public_bytes(Encoding.DER)
        if len(data) == len(old):
            return token.replace(old, data)
    raise AssertionError("no certificate of that length")


@pytest.mark.parametrize("purpose", [ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION])
def test_an_authority_whose_certificate_is_for_something_else(tsa: Tsa, purpose: x509.ObjectIdentifier):
    refused("not for timeStamping", swap_certificate(tsa, purpose=purpose), tsa.root)


def test_an_authority_whose_purpose_is_not_critical(tsa: Tsa):
    refused("for timeStamping alone", swap_certificate(tsa, "tsa123", critical=False), tsa.root)  # as many bytes


def test_a_timestamp_over_a_weak_hash(tmp_path: Path):
    tsa = open_authority(tmp_path / "tsa", digests="sha1, sha256")
    refused("is over the weak hash", tsa.stamp(b"signature", "sha1"), tsa.root, SignatureInvalid)


def test_a_timestamp_signed_over_a_weak_hash(tmp_path: Path):
    tsa = open_authority(tmp_path / "tsa", signer_digest="sha1")
    refused("signed over the weak hash", tsa.stamp(b"signature"), tsa.root, SignatureInvalid)


def test_too_many_timestamps_and_garbage(tsa: Tsa):
    trust = trusting(ROOT, at=CLOCK, tsa_roots=(tsa.root.certificate,))
    token = tsa.stamp(sealed(LEAF).signatures[0].value)
    for tokens in ((token,) * (MAX_TOKENS + 1), (b"",), (b"\x30\x00",), (token[:-1],), (token + b"\0",)):
        with pytest.raises(UnreadableArtifact):
            trust.accept(stamped(*tokens), 0)


def test_no_changed_byte_changes_the_time(tsa: Tsa):
    """Every byte of a token, one at a time: refused, or the same time (unsigned wrapping may vary)."""
    token = tsa.stamp(b"signature")
    roots = (tsa.root.certificate,)
    truth = verify_timestamp(token, b"signature", roots, now=CLOCK + SOON)
    accepted = 0
    for place in range(len(token)):
        changed = bytearray(token)
        changed[place] ^= 1 << (place % 8)
        try:
            time = verify_timestamp(bytes(changed), b"signature", roots, now=CLOCK + SOON)
        except HoldfastError:
            continue
        accepted += 1
        assert time == truth
    assert accepted < len(token) / 20
