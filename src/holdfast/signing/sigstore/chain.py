"""Chains of certificates from a pinned root to a leaf (RFC 5280, section 6, for the one given path; no search)."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import SignatureInvalid, SignerUntrusted, UnreadableArtifact

_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
# what the library raises when it reads a certificate, some of it only when a part is asked for
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
Kind = TypeVar("Kind", bound=x509.ExtensionType)


def load_certificate(der: bytes) -> x509.Certificate:
    """Return a DER certificate whose extensions all parse; raise :class:`UnreadableArtifact` otherwise."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.public_key()
    except MALFORMED as error:
        raise UnreadableArtifact(f"a certificate is malformed: {error}") from error
    return certificate


def extension(certificate: x509.Certificate, kind: type[Kind]) -> Kind | None:
    """Return the value of one extension, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def require_linked(chain: tuple[x509.Certificate, ...]) -> None:
    """Return if each of ``chain`` issued the one before it, and the last one itself.

    Raises:
        UnreadableArtifact: empty, out of order, or without its root.
    """
    if not chain:
        raise UnreadableArtifact("an authority has no certificate")
    for below, above in zip(chain, (*chain[1:], chain[-1]), strict=True):
        try:
            _require_issued(below, above)
        except SignatureInvalid as error:
            raise UnreadableArtifact(f"an authority's chain does not lead to its own root: {error}") from error


def verify_path(leaf: x509.Certificate, chain: tuple[x509.Certificate, ...], time: datetime) -> None:
    """Return if ``leaf`` is issued by ``chain`` (issuer first, root last) and all of them are valid at ``time``.

    Raises:
        SignatureInvalid: one did not issue the one before it.
        SignerUntrusted: one was not valid at ``time``, is no authority, or restricts what is not understood here.
    """
    _require_issued(leaf, chain[0])
    require_linked(chain)
    for certificate in (leaf, *chain):
        _require_valid(certificate, time)
        _require_understood(certificate)
    for below, authority in enumerate(chain):
        _require_authority(authority, below)


def _require_issued(below: x509.Certificate, above: x509.Certificate) -> None:
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        name = above.subject.rfc4514_string()
        raise SignatureInvalid(f"a certificate is not issued by {name!r}") from error


def _require_valid(certificate: x509.Certificate, time: datetime) -> None:
    if not certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc:
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        name = certificate.subject.rfc4514_string() or "the signer's"
        raise SignerUntrusted(f"signed at {time:%F %T}; the certificate {name!r} is for {since:%F %T} to {until:%F %T}")


def _require_understood(certificate: x509.Certificate) -> None:
    for item in certificate.extensions:
        if item.critical and not isinstance(item.value, _UNDERSTOOD):
            raise SignerUntrusted(f"a certificate has the critical extension {item.oid.dotted_string}, unknown here")


def _require_authority(certificate: x509.Certificate, below: int) -> None:
    constraints, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise SignerUntrusted(f"{certificate.subject.rfc4514_string()!r} may not issue certificates")
    if constraints.path_length is not None and constraints.path_length < below:
        raise SignerUntrusted(f"{certificate.subject.rfc4514_string()!r} may not stand so high in a chain")
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        raise SignerUntrusted(f"{certificate.subject.rfc4514_string()!r} may not issue for code signing")
