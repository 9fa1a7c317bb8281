"""X.509 certificates as they come in: PEM files that somebody chose, and the DER chain inside a bundle.

Parsing is the ``cryptography`` library's. What a certificate is good for is decided elsewhere; here it is readable.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from holdfast._files import read_bytes
from holdfast.errors import HoldfastError, SignerUntrusted, UnreadableArtifact
from holdfast.signing.envelope import Material, from_base64, to_base64
from holdfast.signing.keys import PublicKey, load_public

MALFORMED = (  # what the library raises when it reads something that is not what it should be
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
MAX_CHAIN = 8  # certificates in a bundle; real chains have two or three
MAX_CERTIFICATE = 1 << 15  # bytes of one certificate
MAX_FILE = 1 << 20  # bytes of one PEM file
MAX_PER_FILE = 256


def read_certificates(source: Path | str | bytes) -> tuple[x509.Certificate, ...]:
    """Return all certificates of a PEM file, or of PEM bytes, in their order.

    Raises:
        UnreadableArtifact: no file, no certificate in it, or one that is malformed.
    """
    data = source if isinstance(source, bytes) else read_bytes(source, "certificate file", limit=MAX_FILE)
    name = "the certificate" if isinstance(source, bytes) else str(source)
    try:
        found = tuple(x509.load_pem_x509_certificates(data))
    except MALFORMED as error:
        raise UnreadableArtifact(f"{name} holds no readable PEM certificate", hint="PEM, one or several") from error
    if len(found) > MAX_PER_FILE:
        raise UnreadableArtifact(f"{name} holds {len(found)} certificates, more than {MAX_PER_FILE}")
    return tuple(_readable(item, name) for item in found)


def read_files(paths: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of ``a.pem+b.pem``: several files, in order."""
    if not paths:
        return ()
    names = [paths] if Path(paths).exists() else paths.split("+")
    return tuple(certificate for name in names for certificate in read_certificates(name))


def read_chain(material: Material) -> tuple[x509.Certificate, ...]:
    """Return the chain that a bundle brings along, leaf first.

    Raises:
        UnreadableArtifact: no chain, too long a one, or a certificate that is malformed.
    """
    entries = material.value.get("certificates")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CHAIN:
        raise UnreadableArtifact(f"the bundle has no chain of 1 to {MAX_CHAIN} certificates")
    return tuple(read_entry(entry) for entry in entries)


def read_entry(entry: Any) -> x509.Certificate:
    """Return the certificate of a JSON object ``X509Certificate``, or raise :class:`UnreadableArtifact`."""
    data = from_base64(entry.get("rawBytes") if isinstance(entry, dict) else None, "certificate")
    if len(data) > MAX_CERTIFICATE:
        raise UnreadableArtifact(f"the bundle's certificate has {len(data)} bytes, more than {MAX_CERTIFICATE}")
    return parse_certificate(data)


def parse_certificate(data: bytes) -> x509.Certificate:
    """Return a certificate from DER; raise :class:`UnreadableArtifact` if it is none, or bytes follow it."""
    try:
        certificate = x509.load_der_x509_certificate(data)
    except MALFORMED as error:
        raise UnreadableArtifact(f"the bundle's certificate is malformed: {error}") from error
    # the count of unused bits before the signature is not signed, and the library reads over it
    if certificate.public_bytes(Encoding.DER) != data or not data.endswith(b"\0" + certificate.signature):
        raise UnreadableArtifact("the bundle's certificate is not in DER")
    return _readable(certificate, "the bundle")


def _readable(certificate: x509.Certificate, source: str) -> x509.Certificate:
    """Return ``certificate`` if all that is looked at later can be read: the library parses only on request."""
    try:
        _ = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
        _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except MALFORMED as error:
        raise UnreadableArtifact(f"a certificate in {source} is malformed: {error}") from error
    return certificate


def chain_value(chain: tuple[x509.Certificate, ...]) -> dict[str, Any]:
    """Return the JSON object ``x509CertificateChain`` of ``chain``, leaf first."""
    return {"certificates": [{"rawBytes": to_base64(item.public_bytes(Encoding.DER))} for item in chain]}


def leaf_key(leaf: x509.Certificate) -> PublicKey:
    """Return the key that ``leaf`` certifies: ECDSA on P-256, P-384 or P-521, or Ed25519.

    Raises:
        SignerUntrusted: a key of another kind, such as RSA.
    """
    try:
        return load_public(leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except (HoldfastError, *MALFORMED) as error:
        raise SignerUntrusted(f"{describe(leaf)} certifies a key that cannot sign models: {error}") from error


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    """Return the value of one extension of a certificate, or None without it."""
    return next((item.value for item in certificate.extensions if isinstance(item.value, kind)), None)


def name_of(certificate: x509.Certificate) -> str:
    """Return the certificate's subject as RFC 4514 writes it."""
    return certificate.subject.rfc4514_string()


def issuer_of(certificate: x509.Certificate) -> str:
    """Return the certificate's issuer as RFC 4514 writes it."""
    return certificate.issuer.rfc4514_string()


def certificate_name(certificate: x509.Certificate) -> str:
    """Return how a revocation list names a certificate: SHA-256 (hex) of its issuer's DER name, and its serial."""
    return f"{hashlib.sha256(certificate.issuer.public_bytes()).hexdigest()}/{certificate.serial_number}"


def describe(certificate: x509.Certificate) -> str:
    """Return the words by which messages call a certificate."""
    return f"certificate {name_of(certificate)!r}"
