"""Chains of certificates from a pinned root to a leaf (RFC 5280, section 6, for the one given path; no search)."""

from __future__ import annotations

import itertools
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from holdfast.errors import SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.signing.x509.certificates import MALFORMED, describe, extension, parse_certificate
from holdfast.signing.x509.checks import CODE_SIGNING, require_strong
from holdfast.signing.x509.path import PathRules, require_path


def load_certificate(der: bytes) -> x509.Certificate:
    """Return a DER certificate all of whose parts can be read; raise :class:`UnreadableArtifact` otherwise."""
    certificate = parse_certificate(der)
    try:
        _ = certificate.public_key()
    except MALFORMED as error:
        raise UnreadableArtifact(f"a certificate is malformed: {error}") from error
    return certificate


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
    path = (leaf, *chain)
    for below, above in itertools.pairwise(path):
        require_strong(below, above)
    require_path(path, PathRules(roots=chain[-1:], time=time, purpose=CODE_SIGNING))
    for authority in chain:  # which RFC 5280 leaves open for a root, and Sigstore does not
        _require_signing_usage(authority)


def _require_issued(below: x509.Certificate, above: x509.Certificate) -> None:
    try:
        below.verify_directly_issued_by(above)
    except (InvalidSignature, *MALFORMED) as error:
        name = above.subject.rfc4514_string()
        raise SignatureInvalid(f"a certificate is not issued by {name!r}") from error


def _require_signing_usage(authority: x509.Certificate) -> None:
    usage = extension(authority, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        raise SignerUntrusted(f"{describe(authority)} may not issue certificates")
