"""Certificates that must not count: for another purpose, time, name or authority, or revoked since."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import HoldfastError, InvalidConfig, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import verify_bundle
from holdfast.signing.envelope import CHAIN, Material, to_base64, write_envelope
from holdfast.signing.x509 import chain_value, read_certificates
from holdfast.signing.x509.certificates import parse_certificate
from tests.authority import (
    BUILDER,
    DAY,
    NOW,
    PAYLOAD,
    Holder,
    authority,
    issue,
    revoking,
    sealed,
    signer,
    trusting,
    usage,
)

ROOT = authority("root")
BETWEEN = authority("between", ROOT)
LEAF = signer(BETWEEN)


def refused(words: str, leaf: Holder, *between: Holder, root: Holder = ROOT, **options: object) -> None:
    with pytest.raises(SignerUntrusted, match=words):
        trusting(root, **options).accept(sealed(leaf, *between), 0)


def test_the_unchanged_chain_is_accepted():
    assert trusting(ROOT).accept(sealed(LEAF, BETWEEN), 0).name == BUILDER


# --- for another purpose ---


@pytest.mark.parametrize(
    "purposes",
    [
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.EMAIL_PROTECTION],
        [],
    ],
    ids=["tls-server", "tls", "any", "email", "none"],
)
def test_a_certificate_for_something_else(purposes: list[x509.ObjectIdentifier]):
    refused("not for codeSigning", signer(BETWEEN, purposes=purposes), BETWEEN)


def test_a_tls_certificate_without_digital_signature_that_other_tools_accept():
    refused("digital signatures", signer(BETWEEN, bits=("key_agreement",)), BETWEEN)


def test_an_authority_for_tls_alone_certifies_no_signers():
    tls = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    between = authority("tls", ROOT, extensions=((x509.BasicConstraints(True, None), True), tls))
    refused("may not certify for codeSigning", signer(between), between)


def test_an_rsa_leaf():
    leaf = signer(BETWEEN, key=rsa.generate_private_key(65537, 2048))
    refused("cannot sign models", leaf, BETWEEN)


def test_a_leaf_on_another_curve():
    leaf = signer(BETWEEN, key=ec.generate_private_key(ec.SECP256K1()))
    forged = dataclasses.replace(sealed(LEAF, BETWEEN), material=Material(CHAIN, chain_value((leaf.certificate,))))
    with pytest.raises(SignerUntrusted, match="cannot sign models"):
        trusting(ROOT).accept(forged, 0)


# --- at another time ---


def test_an_expired_leaf():
    refused("'CN=builder' expired", signer(BETWEEN, end=NOW - DAY), BETWEEN)


def test_a_leaf_of_tomorrow():
    refused("'CN=builder' is not valid before", signer(BETWEEN, start=NOW + DAY), BETWEEN)


def test_an_expired_intermediate():
    between = authority("between", ROOT, end=NOW - DAY)
    refused("'CN=between' expired", signer(between), between)


def test_an_expired_root():
    root = authority("old", end=NOW - DAY)
    refused("'CN=old' expired", signer(root), root=root)


def test_time_is_now_unless_it_is_said_otherwise():
    refused("expired", signer(BETWEEN, start=NOW - 100 * DAY, end=NOW - 99 * DAY), BETWEEN, at=None)


def test_a_time_without_a_zone():
    with pytest.raises(InvalidConfig, match="zone"):
        trusting(ROOT, at=NOW.replace(tzinfo=None))


# --- for another name ---


@pytest.mark.parametrize(
    "name",
    [
        "evil-builder@example.org",
        "builder@example.org.evil.com",
        "Builder@example.org",
        "builder@EXAMPLE.org",
        "builder@example.org\0",
        "builder@example.org\0@evil.com",
        "builder@example.org ",
        " builder@example.org",
        "builder@example.org\n",
        "builder@example.orgx",
        "uilder@example.org",
    ],
)
def test_a_name_that_only_looks_like_the_demanded_one(name: str):
    leaf = signer(BETWEEN, names=[x509.RFC822Name._init_without_validation(name)])
    refused("the signer is", leaf, BETWEEN)
    refused("the signer is", leaf, BETWEEN, pattern=r"builder@example\.org")


@pytest.mark.parametrize(
    "name",
    [
        "a@example.org.evil.com",
        "a@evilexample.org",
        "a@sub.example.org",
        "a@example.org@evil.com",
        "a@evil.com\0@example.org",
    ],
)
def test_a_domain_that_only_contains_the_demanded_one(name: str):
    leaf = signer(BETWEEN, names=[x509.RFC822Name._init_without_validation(name)])
    refused("the signer is", leaf, BETWEEN, domain="example.org")


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName._init_without_validation(BUILDER),
        x509.UniformResourceIdentifier._init_without_validation(BUILDER),
        x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.EMAIL_ADDRESS, BUILDER)])),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x13" + BUILDER.encode()),
    ],
    ids=["dns", "uri", "directory", "other"],
)
def test_an_address_in_a_field_for_something_else(name: x509.GeneralName):
    refused("the signer is", signer(BETWEEN, names=[name]), BETWEEN)


def test_an_address_in_the_subject_is_no_alternative_name():
    refused("the signer is nobody", signer(BETWEEN, subject=BUILDER, names=[]), BETWEEN)


def test_a_uri_that_ends_in_an_address():
    uri = x509.UniformResourceIdentifier("https://a@example.org")
    refused("the signer is", signer(BETWEEN, names=[uri]), BETWEEN, domain="example.org")


def test_a_host_that_was_not_asked_for_by_its_wildcard():
    leaf = signer(BETWEEN, names=[x509.DNSName("*.example.org")])
    refused("the signer is", leaf, BETWEEN, identity="build.example.org")


def test_a_subject_with_more_in_it():
    leaf = signer(BETWEEN, subject="builder,O=Example")
    refused("subject", leaf, BETWEEN, subject="CN=builder")
    refused("subject", leaf, BETWEEN, subject="CN=builder,O=Example")


# --- by another authority ---


def test_a_self_signed_leaf():
    refused("does not lead to a trusted root", signer(None))


def test_a_leaf_that_is_itself_called_a_root():
    leaf = signer(None)
    refused("is a trusted root itself", leaf, root=leaf)


def test_the_trusted_root_as_the_signer():
    root = authority("root", key=ec.generate_private_key(ec.SECP256R1()))
    refused("is a trusted root itself", root, root=root, subject="CN=root")


def test_a_forged_authority_of_the_same_name():
    forged = authority("root")
    refused("not signed by the key of", signer(forged), forged)


def test_a_forged_intermediate_of_the_same_name():
    forged = authority("between")
    refused("not signed by the key of|does not lead", signer(forged), forged, BETWEEN)


def test_a_root_that_the_bundle_brings_along():
    other = authority("other")
    refused("does not lead to a trusted root", signer(other), other)


def test_a_signer_who_makes_himself_an_authority():
    below = signer(LEAF, subject="below")
    refused("is no authority", below, LEAF, BETWEEN)


def test_an_intermediate_without_the_authority_flag():
    bits = ((usage("key_cert_sign"), True),)
    between = authority("between", ROOT, extensions=bits)
    refused("is no authority", signer(between), between)


def test_an_intermediate_that_may_not_sign_certificates():
    bits = ((x509.BasicConstraints(True, None), True), (usage("crl_sign", "digital_signature"), True))
    between = authority("between", ROOT, extensions=bits)
    refused("may not sign certificates", signer(between), between)


def test_a_path_longer_than_an_authority_allows():
    root = authority("short", length=0)
    between = authority("between", root)
    refused("may have 0 authorities below, not 1", signer(between), between, root=root)
    assert trusting(root).accept(sealed(signer(root)), 0).name == BUILDER


def test_a_path_length_in_the_middle():
    first = authority("first", ROOT, length=0)
    second = authority("second", first)
    refused("may have 0 authorities below", signer(second), second, first)


def test_a_leaf_that_is_an_authority_needs_an_explicit_exception():
    extensions = ((x509.BasicConstraints(True, None), True), (usage("digital_signature"), True))
    extensions += ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),)
    leaf = issue("builder", BETWEEN, extensions=extensions)
    refused("is an authority, not a signer", leaf, BETWEEN, subject="CN=builder")
    exception = trusting(ROOT, subject="CN=builder", allow_ca_leaf=True)
    assert exception.accept(sealed(leaf, BETWEEN), 0).name == "CN=builder"


def test_an_unknown_critical_extension_anywhere():
    unknown = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.9"), b"\x05\x00"), True)
    refused("unknown critical extension 1.3.6.1.4.1.55555.9", signer(BETWEEN, more=[unknown]), BETWEEN)
    right = ((x509.BasicConstraints(True, None), True), (usage("key_cert_sign"), True))
    between = authority("between", ROOT, extensions=(*right, unknown))
    refused("unknown critical extension", signer(between), between)
    harmless = (unknown[0], False)
    assert trusting(ROOT).accept(sealed(signer(BETWEEN, more=[harmless]), BETWEEN), 0).name == BUILDER


@pytest.mark.parametrize("critical", [True, False])
def test_name_constraints_are_not_overlooked(critical: bool):
    limit = (x509.NameConstraints([x509.RFC822Name("example.com")], None), critical)
    right = ((x509.BasicConstraints(True, None), True), (usage("key_cert_sign"), True))
    between = authority("between", ROOT, extensions=(*right, limit))
    refused("name constraints", signer(between), between)


def test_authorities_may_have_rsa_keys_but_not_short_ones():
    good = authority("rsa", key=rsa.generate_private_key(65537, 2048))
    assert trusting(good).accept(sealed(signer(good)), 0).name == BUILDER
    short = authority("rsa", key=rsa.generate_private_key(65537, 1024))
    refused("weak or unknown kind of key", signer(short), root=short)


def test_a_chain_signed_over_a_short_hash():
    refused("weak hash sha224", signer(BETWEEN, hash=hashes.SHA224()), BETWEEN)
    between = authority("between", ROOT, hash=hashes.SHA224())
    refused("weak hash sha224", signer(between), between)


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_a_chain_signed_over_a_broken_hash(tmp_path: Path, digest: str):
    """Made with the command line, because the library refuses to make it."""
    (tmp_path / "ca.cnf").write_text("[e]\nextendedKeyUsage=codeSigning\nsubjectAltName=email:" + BUILDER)

    def openssl(*words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"this openssl signs nothing over {digest}: {done.stderr[:100]!r}")

    key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=md5", "-days", "9999")
    ec_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", *ec_key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=builder")
    files = ["-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "leaf.pem"]
    openssl("x509", "-req", *files, f"-{digest}", "-days", "9999", "-extfile", "ca.cnf", "-extensions", "e")
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    [leaf] = read_certificates(tmp_path / "leaf.pem")
    [root] = read_certificates(tmp_path / "ca.pem")
    private = load_pem_private_key((tmp_path / "leaf.key").read_bytes(), None)
    refused(f"weak hash {digest}", Holder(leaf, private), root=Holder(root, None), at=None)


# --- revoked ---


def test_a_revoked_leaf():
    lists = (revoking(BETWEEN, LEAF), revoking(ROOT))
    refused("'CN=builder' was revoked", LEAF, BETWEEN, lists=lists)
    fresh_beside_old = (revoking(BETWEEN, end=NOW + 2 * DAY), *lists)
    refused("'CN=builder' was revoked", LEAF, BETWEEN, lists=fresh_beside_old)


def test_a_revoked_intermediate():
    refused("'CN=between' was revoked", LEAF, BETWEEN, lists=(revoking(BETWEEN), revoking(ROOT, BETWEEN)))


def test_a_stale_list_a_list_of_tomorrow_and_one_without_an_end():
    other = revoking(ROOT)
    refused("out of date", LEAF, BETWEEN, lists=(revoking(BETWEEN, start=NOW - 9 * DAY, end=NOW - DAY), other))
    refused("from the future", LEAF, BETWEEN, lists=(revoking(BETWEEN, start=NOW + DAY, end=NOW + 2 * DAY), other))


def test_a_list_of_another_authority():
    refused("no revocation list covers", LEAF, BETWEEN, lists=(revoking(ROOT),))
    forger = authority("between")
    refused("not signed by", LEAF, BETWEEN, lists=(revoking(forger), revoking(ROOT)))


def test_a_list_over_a_weak_hash():
    refused("not signed by", LEAF, BETWEEN, lists=(revoking(BETWEEN, hash=hashes.SHA224()), revoking(ROOT)))


def test_a_list_by_an_authority_that_may_not_sign_lists():
    right = ((x509.BasicConstraints(True, None), True), (usage("key_cert_sign"), True))
    between = authority("between", ROOT, extensions=right)
    refused("may not sign revocation lists", signer(between), between, lists=(revoking(between), revoking(ROOT)))


def test_a_list_that_is_only_a_part():
    for part in (x509.DeltaCRLIndicator(1), x509.IssuingDistributionPoint(None, None, True, False, None, False, False)):
        partial = revoking(BETWEEN, extensions=((part, True),))
        refused("unknown extension", LEAF, BETWEEN, lists=(partial, revoking(ROOT)))


# --- in the bundle ---


def test_a_signature_by_another_key_than_the_certified_one():
    good = sealed(LEAF, BETWEEN)
    other = sealed(signer(BETWEEN), BETWEEN)
    with pytest.raises(SignatureInvalid):
        trusting(ROOT).accept(dataclasses.replace(good, signatures=other.signatures), 0)


def test_a_changed_payload():
    with pytest.raises(SignatureInvalid):
        trusting(ROOT).accept(dataclasses.replace(sealed(LEAF, BETWEEN), payload=PAYLOAD + b" "), 0)


def test_chains_that_are_none():
    good = sealed(LEAF, BETWEEN)
    entries = good.material.value["certificates"]
    raw = entries[0]["rawBytes"]
    wrong: list[object] = [
        [],
        {},
        None,
        [{}],
        ["x"],
        [{"rawBytes": "AAAA"}],
        [{"rawBytes": raw[:-8]}],
        entries * 9,
    ]
    for certificates in wrong:
        material = Material(CHAIN, {"certificates": certificates})
        with pytest.raises(UnreadableArtifact):
            trusting(ROOT).accept(dataclasses.replace(good, material=material), 0)


@pytest.mark.parametrize("place", [0, 1], ids=["leaf", "intermediate"])
def test_no_changed_bit_of_a_certificate_is_accepted(place: int):
    """One bit of every byte, one at a time: the certificates are signed from the first byte to the last."""
    good = sealed(LEAF, BETWEEN)
    der = [item.certificate.public_bytes(Encoding.DER) for item in (LEAF, BETWEEN)]
    for byte in range(len(der[place])):
        changed = bytearray(der[place])
        changed[byte] ^= 1 << (byte % 8)
        entries = [{"rawBytes": to_base64(bytes(changed) if item is der[place] else item)} for item in der]
        forged = dataclasses.replace(good, material=Material(CHAIN, {"certificates": entries}))
        with pytest.raises(HoldfastError):
            trusting(ROOT).accept(forged, 0)


def test_unused_bits_claimed_of_a_signature_are_refused():
    """The one byte of a certificate that nobody signs and that the library ignores."""
    der = BETWEEN.certificate.public_bytes(Encoding.DER)
    place = len(der) - len(BETWEEN.certificate.signature) - 1
    assert der[place] == 0
    changed = der[:place] + b"\x01" + der[place + 1 : -1] + bytes([der[-1] & 0xFE])
    with pytest.raises(UnreadableArtifact):
        parse_certificate(changed)


def test_certificates_that_lead_in_circles_end():
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    first = authority("a", Holder(authority("b", key=keys[1]).certificate, keys[1]), key=keys[0])
    second = authority("b", first, key=keys[1])
    refused("does not lead to a trusted root", signer(first), first, second)


def test_many_authorities_of_one_name_cost_a_bounded_search():
    key = ec.generate_private_key(ec.SECP256R1())
    crowd = [authority("crowd", Holder(authority("crowd", key=key).certificate, key), key=key) for _ in range(7)]
    refused("attempts|does not lead", signer(crowd[0]), *crowd)


def test_no_roots_means_no_trust():
    with pytest.raises(InvalidConfig, match="needs roots") as caught:
        trusting()
    assert "no default ones" in caught.value.hint


def test_a_whole_bundle_of_the_builder_and_one_with_the_chain_of_another():
    statement = Statement((Subject("model", {"sha256": "0" * 64}),), "https://example.org/kind", {"a": 1})
    good = sealed(LEAF, BETWEEN, payload=statement.to_bytes())
    proof = verify_bundle(write_envelope(good), trusting(ROOT))
    assert (proof.statement, proof.signer) == (statement, BUILDER)
    mallory = sealed(signer(BETWEEN, names=[x509.RFC822Name("m@example.org")]), BETWEEN, payload=good.payload)
    with pytest.raises(SignerUntrusted, match=r"the signer is 'm@example\.org'"):
        verify_bundle(write_envelope(mallory), trusting(ROOT))
    with pytest.raises(SignatureInvalid):
        verify_bundle(write_envelope(dataclasses.replace(mallory, material=good.material)), trusting(ROOT))
