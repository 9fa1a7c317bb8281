"""Certificate authorities of the tests' own: real certificates, made in milliseconds, wrong in one chosen way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holdfast.evidence.statement import PAYLOAD_TYPE
from holdfast.signing.envelope import CHAIN, Envelope, Material, Signature, pae
from holdfast.signing.keys import KeySigner
from holdfast.signing.trusts.certificate import CertificateTrust
from holdfast.signing.x509 import NameRule, chain_value

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
BUILDER = "builder@example.org"
PAYLOAD = b'{"what":"was signed"}'


def usage(*names: str) -> x509.KeyUsage:
    """A keyUsage with exactly these bits."""
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in every})


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Holder:
    """A key and the certificate for it."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def issue(
    subject: str,
    by: Holder | None = None,
    *,
    key: Any = None,
    start: datetime = NOW - 100 * DAY,
    end: datetime = NOW + 100 * DAY,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    hash: Any = None,
    issuer: str | None = None,
    serial: int | None = None,
) -> Holder:
    """A certificate with exactly these extensions (value, critical), signed by ``by`` or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    signed_by = name(issuer) if issuer else (by.certificate.subject if by else name(subject))
    builder = x509.CertificateBuilder(signed_by, name(subject), key.public_key(), serial or x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(end)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    signing_key = by.key if by else key
    unhashed = isinstance(signing_key, ed25519.Ed25519PrivateKey)
    return Holder(builder.sign(signing_key, None if unhashed else hash or hashes.SHA256()), key)


def authority(subject: str, by: Holder | None = None, *, length: int | None = None, **options: Any) -> Holder:
    """A certificate authority as it should be."""
    right = (x509.BasicConstraints(True, length), True), (usage("key_cert_sign", "crl_sign"), True)
    return issue(subject, by, **({"extensions": right} | options))


def signer(by: Holder | None, subject: str = "builder", **options: Any) -> Holder:
    """A codeSigning certificate as it should be; ``names`` and ``purposes`` say for whom and what."""
    names = options.pop("names", [x509.RFC822Name(BUILDER)])
    purposes = options.pop("purposes", [ExtendedKeyUsageOID.CODE_SIGNING])
    bits = options.pop("bits", ("digital_signature",))
    values = [(x509.BasicConstraints(False, None), True), (usage(*bits), True)] if bits else []
    values += [(x509.ExtendedKeyUsage(purposes), False)] if purposes else []
    values += [(x509.SubjectAlternativeName(names), False)] if names else []
    values += options.pop("more", [])
    return issue(subject, by, **({"extensions": tuple(values)} | options))


def sealed(leaf: Holder, *between: Holder, payload: bytes = PAYLOAD, timestamps: tuple[bytes, ...] = ()) -> Envelope:
    """An envelope signed by ``leaf`` with its chain beside it."""
    message = pae(PAYLOAD_TYPE, payload)
    chain = chain_value((leaf.certificate, *(item.certificate for item in between)))
    material = Material(CHAIN, chain, timestamps=timestamps)
    if isinstance(leaf.key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        value = KeySigner(leaf.key).sign(message)
    else:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

        value = leaf.key.sign(message, PKCS1v15(), hashes.SHA256())
    return Envelope(payload, PAYLOAD_TYPE, (Signature(value),), material)


def trusting(*roots: Holder, **options: Any) -> CertificateTrust:
    """Trust in the builder's address under ``roots`` at the tests' own time."""
    rule = {
        key: options.pop(key)
        for key in ("identity", "domain", "pattern", "subject", "issuer", "policy")
        if key in options
    }
    rule = NameRule(**(rule or {"identity": BUILDER}))
    return CertificateTrust(**({"roots": tuple(item.certificate for item in roots), "name": rule, "at": NOW} | options))


def revoking(
    by: Holder, *holders: Holder, start: datetime = NOW - DAY, end: datetime | None = NOW + DAY, **options: Any
) -> bytes:
    """A revocation list of ``by`` (DER) that names ``holders``."""
    builder = x509.CertificateRevocationListBuilder(options.get("issuer", by.certificate.subject), start, end)
    for item in holders:
        entry = x509.RevokedCertificateBuilder(item.certificate.serial_number, NOW - DAY)
        builder = builder.add_revoked_certificate(entry.build())
    for value, critical in options.get("extensions", ()):
        builder = builder.add_extension(value, critical)
    return builder.sign(by.key, options.get("hash", hashes.SHA256())).public_bytes(Encoding.DER)
