"""Forged keyless bundles: certificates, authorities and whole instances that are not the pinned ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import HoldfastError, RecordMissing, SignatureInvalid, SignerUntrusted
from holdfast.signing.sigstore import TrustedRoot, parse_trusted_root
from holdfast.signing.sigstore.chain import load_certificate
from holdfast.signing.sigstore.fulcio import read_subject, verify_leaf
from holdfast.signing.sigstore.sct import verify_scts
from tests.attacks.test_sigstore import WORLD, Bundle, entry, issued, verify
from tests.sigstore_parts import Ca, CertificateLog, SignatureLog, b64, key_usage, new_key
from tests.sigstore_world import IDENTITY, World

WEAK = (ExtendedKeyUsageOID.SERVER_AUTH,)
CODE = ExtendedKeyUsageOID.CODE_SIGNING
CERTIFICATES: dict[str, tuple[dict[str, Any], type[HoldfastError], str]] = {
    "for servers, not code": ({"purposes": WEAK}, SignerUntrusted, "signing code"),
    "for code and for servers": ({"purposes": (CODE, *WEAK)}, SignerUntrusted, "signing code"),
    "for no purpose": ({"purposes": ()}, SignerUntrusted, "signing code"),
    "not for signatures": ({"usage": key_usage(signs=False, certifies=True)}, SignerUntrusted, "key usage"),
    "that may issue certificates": ({"is_ca": True}, SignerUntrusted, "certificate authority"),
    "without a certificate log": ({"certificate_logs": []}, RecordMissing, "no timestamp of a certificate log"),
    "of an unknown certificate log": (
        {"certificate_logs": [CertificateLog()]},
        SignerUntrusted,
        "knows no certificate log",
    ),
    "of a known and an unknown certificate log": (
        {"certificate_logs": [WORLD.certificate_log, CertificateLog()]},
        SignerUntrusted,
        "knows no certificate log",
    ),
    "whose log saw another certificate": (
        {"logged_tbs": lambda tbs: tbs[:-1] + bytes([tbs[-1] ^ 1])},
        SignatureInvalid,
        "not for this certificate",
    ),
    "whose log saw another issuer": ({"logged_issuer": Ca("x").middle}, SignatureInvalid, "not for this certificate"),
    "of another authority": ({"by": Ca("evil")}, SignerUntrusted, "knows no authority"),
    "of another authority under the same name": (
        {"by": Ca("example"), "logged_issuer": WORLD.ca.middle},
        SignatureInvalid,
        "not issued by",
    ),
    "too old at the logged time": (
        {"start": WORLD.time - timedelta(minutes=10, seconds=1)},
        SignerUntrusted,
        "expired on",
    ),
    "too young at the logged time": (
        {"start": WORLD.time + timedelta(seconds=1)},
        SignerUntrusted,
        "is not valid before",
    ),
    "of another identity": (
        {"names": [x509.RFC822Name("eve@example.org")]},
        SignerUntrusted,
        "signed by 'eve@example.org'",
    ),
    "of an identity with something before": (
        {"names": [x509.RFC822Name("x" + IDENTITY)]},
        SignerUntrusted,
        "trusted is",
    ),
    "of two identities": (
        {"names": [x509.RFC822Name(IDENTITY), x509.RFC822Name("eve@example.org")]},
        SignerUntrusted,
        "exactly one identity",
    ),
    "of a host name": ({"names": [x509.DNSName("example.org")]}, SignerUntrusted, "DNSName"),
    "of nobody": ({"names": []}, SignerUntrusted, "exactly one identity"),
    "vouched for by another issuer": (
        {"issuer": b"https://evil.example.org", "tagged": b"https://evil.example.org"},
        SignerUntrusted,
        "vouched for by 'https://evil",
    ),
    "whose two issuers differ": ({"issuer": b"https://evil.example.org"}, SignerUntrusted, "exactly one issuer"),
    "without an issuer": ({"issuer": None, "tagged": None}, SignerUntrusted, "exactly one issuer"),
    "with a critical extension nobody knows": (
        {"extra": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)},
        SignerUntrusted,
        "critical extension 1.2.3.4",
    ),
}


@pytest.mark.parametrize("what", CERTIFICATES)
def test_a_certificate_is_refused(what: str):
    changes, error, reason = CERTIFICATES[what]
    with pytest.raises(error, match=reason):
        verify(issued(WORLD.login(**changes)))


def test_either_spelling_of_the_issuer_alone_is_enough():
    for changes in ({"issuer": None}, {"tagged": None}):
        assert verify(issued(WORLD.login(**changes))).signer == IDENTITY


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_certificate_with_any_bit_flipped_is_refused_and_never_crashes_the_reader():
    """What is accepted says and carries the same: the count of unused bits of a signature may be spelled in two ways.

    A bundle with such a certificate is refused all the same, since the log has the certificate byte for byte.
    """
    leaf = WORLD.login().leaf
    der, root = leaf.public_bytes(Encoding.DER), parse_trusted_root(json.dumps(WORLD.trusted_root()).encode())
    for place in range(len(der)):
        for bit in range(8):
            damaged = der[:place] + bytes([der[place] ^ 1 << bit]) + der[place + 1 :]
            with suppress(HoldfastError):
                found = read_everything(damaged, root)
                assert (found.tbs_certificate_bytes, found.signature) == (leaf.tbs_certificate_bytes, leaf.signature)


def read_everything(der: bytes, root: TrustedRoot) -> x509.Certificate:
    """Read each part, also after another one was refused, verify the whole last, and return what was accepted."""
    leaf = load_certificate(der)
    for part in (lambda: read_subject(leaf), lambda: verify_scts(leaf, WORLD.ca.middle, root)):
        with suppress(HoldfastError):
            part()
    verify_leaf(leaf, root, WORLD.time)
    return leaf


def until(place: str, when: timedelta) -> Callable[[Bundle], None]:
    """End the belief in one part of the pinned root at ``when`` after the signing."""
    stamp = (WORLD.time + when).strftime("%Y-%m-%dT%H:%M:%SZ")

    def change(root: Bundle) -> None:
        item = root[place][0]
        item.get("publicKey", item)["validFor"]["end"] = stamp

    return change


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("tlogs", "signature log rekor.example.org is not believed"),
        ("ctlogs", "certificate log ctfe.example.org/2026 is not believed"),
        ("certificateAuthorities", "does not believe the certificate's authority"),
    ],
)
def test_a_part_of_the_instance_that_was_retired_before_the_signing_is_not_believed(place: str, reason: str):
    bundle = issued()
    verify(bundle, root=until(place, timedelta(seconds=1)))
    with pytest.raises(SignerUntrusted, match=reason):
        verify(bundle, root=until(place, timedelta(seconds=-10)))


def test_another_instance_with_all_the_same_names_is_not_believed():
    evil = World()
    with pytest.raises(HoldfastError) as caught:
        verify(issued(evil.login()))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("part", ["ca", "certificate_log", "log"])
def test_an_instance_with_one_stolen_name_is_not_believed(part: str):
    """The attacker has every key of the instance but one, and makes that one himself."""
    fresh = {"ca": Ca("example"), "certificate_log": CertificateLog(), "log": SignatureLog()}[part]
    evil = replace(WORLD, **{part: fresh})
    with pytest.raises((SignatureInvalid, SignerUntrusted)):
        verify(issued(evil.login()))


def test_a_log_key_under_the_trusted_logs_name_is_not_believed():
    forger = replace(WORLD.log, key=new_key(), leaves=list(WORLD.log.leaves))
    bundle = issued(replace(WORLD, log=forger).login())
    entry(bundle)["logId"]["keyId"] = b64(WORLD.log.log_id)
    with pytest.raises((SignatureInvalid, RecordMissing)):
        verify(bundle)


def test_an_intermediate_that_may_not_issue_is_refused():
    world = World(ca=Ca("example", intermediate_is_ca=False))
    with pytest.raises(SignerUntrusted, match="is no authority"):
        verify(issued(world.login()), world)
