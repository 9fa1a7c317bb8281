"""Certificate revocation lists from files (RFC 5280, section 5): signed by the issuer, fresh, complete for the path."""

from __future__ import annotations

import itertools
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast._files import read_bytes
from holdfast.errors import SignerUntrusted, UnreadableArtifact
from holdfast.signing.x509.certificates import MALFORMED, describe, extension
from holdfast.signing.x509.checks import STRONG_HASHES

MAX_LIST = 64 << 20  # bytes of one list; large authorities have lists of tens of megabytes
_UNDERSTOOD = (x509.CRLNumber, x509.AuthorityKeyIdentifier)


def read_lists(paths: str) -> tuple[bytes, ...]:
    """Return the DER bytes of the lists in ``a.crl+b.pem``; one list per file, PEM or DER.

    Raises:
        UnreadableArtifact: no file, or no list in it.
    """
    return tuple(_encoded(_read_file(name)) for name in paths.split("+")) if paths else ()


def _read_file(path: str) -> x509.CertificateRevocationList:
    data = read_bytes(path, "revocation list", limit=MAX_LIST)
    try:
        if b"-----BEGIN" in data[:1024]:
            return x509.load_pem_x509_crl(data)
        return x509.load_der_x509_crl(data)
    except MALFORMED as error:
        raise UnreadableArtifact(f"{path} holds no revocation list: {error}") from error


def _encoded(found: x509.CertificateRevocationList) -> bytes:
    return found.public_bytes(Encoding.DER)


def require_unrevoked(path: tuple[x509.Certificate, ...], lists: tuple[bytes, ...], time: datetime) -> None:
    """Check every certificate below the root against a list of its issuer.

    A revoked certificate is refused whenever it signed: a timestamp does not save it, for whoever holds a stolen key
    may hold the timestamps too. With no lists at all nothing is checked; with some, each certificate must be covered.

    Raises:
        SignerUntrusted: one is revoked, or no list of its issuer is signed by it and fresh at ``time``.
    """
    known = [_parse(item) for item in lists]
    if not known:
        return
    for certificate, issuer in itertools.pairwise(path):
        _require_listed(certificate, issuer, known, time)


def _parse(data: bytes) -> x509.CertificateRevocationList:
    try:
        return x509.load_der_x509_crl(data)
    except MALFORMED as error:
        raise UnreadableArtifact(f"a revocation list is malformed: {error}") from error


def _require_listed(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    known: list[x509.CertificateRevocationList],
    time: datetime,
) -> None:
    refusal: SignerUntrusted | None = None
    covered = False
    for candidate in known:
        if candidate.issuer != certificate.issuer:
            continue
        try:
            _require_usable(candidate, issuer, time)
        except SignerUntrusted as error:
            refusal = error
            continue
        covered = True
        _require_absent(certificate, candidate)
    if not covered:
        raise refusal or SignerUntrusted(f"no revocation list covers {describe(certificate)}")


def _require_usable(found: x509.CertificateRevocationList, issuer: x509.Certificate, time: datetime) -> None:
    """Refuse a list that is not the issuer's own complete one, current at ``time``."""
    usage = extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        raise SignerUntrusted(f"{describe(issuer)} may not sign revocation lists (keyUsage)")
    if not _signed_by(found, issuer):
        raise SignerUntrusted(f"the revocation list is not signed by {describe(issuer)}, whose name it gives")
    for item in found.extensions:  # delta lists, partial and indirect ones say so here
        if not isinstance(item.value, _UNDERSTOOD) and (
            item.critical or isinstance(item.value, x509.DeltaCRLIndicator)
        ):
            raise SignerUntrusted(f"the revocation list has the unknown extension {item.oid.dotted_string}")
    if found.last_update_utc > time:
        raise SignerUntrusted(f"the revocation list of {describe(issuer)} is from the future")
    if found.next_update_utc is None or found.next_update_utc < time:
        raise SignerUntrusted(f"the revocation list of {describe(issuer)} is out of date", hint="fetch the current one")


def _signed_by(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        algorithm = found.signature_hash_algorithm
        key = issuer.public_key()
        if algorithm is not None and algorithm.name not in STRONG_HASHES:
            return False
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            return False
        return found.is_signature_valid(key)
    except (*MALFORMED, TypeError):
        return False


def _require_absent(certificate: x509.Certificate, found: x509.CertificateRevocationList) -> None:
    entry = found.get_revoked_certificate_by_serial_number(certificate.serial_number)
    if entry is not None:
        day = entry.revocation_date_utc
        raise SignerUntrusted(f"{describe(certificate)} was revoked by its issuer on {day:%Y-%m-%d}")
