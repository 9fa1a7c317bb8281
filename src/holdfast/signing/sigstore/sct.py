"""Signed certificate timestamps: a log's promise, inside a certificate, that the certificate is public.

What the log signs is RFC 6962, section 3.2: the certificate as it was before the promise was added to it, and the
hash of its issuer's key.
"""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignatureAlgorithm, Version
from cryptography.x509.certificate_transparency import SignedCertificateTimestamp as Promise

from holdfast.errors import RecordMissing, SignatureInvalid, SignerUntrusted
from holdfast.signing.sigstore.trusted_root import TrustedRoot
from holdfast.signing.x509.certificates import extension

_MOST = 8


def verify_scts(leaf: x509.Certificate, issuer: x509.Certificate, root: TrustedRoot) -> None:
    """Return if ``leaf`` carries at least one promise, and every one is by a pinned certificate log.

    Raises:
        RecordMissing: it carries none.
        SignerUntrusted: a promise of a log that is unknown, or not believed at that time.
        SignatureInvalid: a promise for another certificate or issuer, or that the log did not make.
    """
    found = extension(leaf, x509.PrecertificateSignedCertificateTimestamps)
    promises = [] if found is None else list(found)
    if not promises:
        raise RecordMissing("the signer's certificate has no timestamp of a certificate log")
    if len(promises) > _MOST:
        raise SignatureInvalid(f"the signer's certificate has {len(promises)} log timestamps, more than {_MOST}")
    for promise in promises:
        _verify(promise, leaf, issuer, root)


def _verify(promise: Promise, leaf: x509.Certificate, issuer: x509.Certificate, root: TrustedRoot) -> None:
    log, time = root.certificate_log(promise.log_id), _time(promise)
    if not log.validity.holds(time):
        raise SignerUntrusted(f"the certificate log {log.origin} is not believed at {time:%F %T}")
    if promise.version is not Version.v1 or promise.entry_type is not LogEntryType.PRE_CERTIFICATE:
        raise SignatureInvalid("the certificate log's timestamp is of an unknown kind")
    if _algorithm(promise) != "sha256":
        raise SignatureInvalid("the certificate log's timestamp is not signed over SHA-256")
    try:
        log.key.verify(promise.signature, _signed_bytes(promise, time, leaf, issuer))
    except SignatureInvalid:
        raise SignatureInvalid(
            "the certificate log's timestamp is not for this certificate, or not its log's"
        ) from None


def _algorithm(promise: Promise) -> str:
    try:
        anonymous = promise.signature_algorithm is SignatureAlgorithm.ANONYMOUS
        return "" if anonymous else promise.signature_hash_algorithm.name
    except ValueError:  # a number that TLS never gave to an algorithm
        return ""


def _time(promise: Promise) -> datetime:
    try:
        return promise.timestamp.replace(tzinfo=UTC)
    except ValueError as error:  # beyond the year 9999
        raise SignatureInvalid("the certificate log's timestamp has a time that no calendar has") from error


def _signed_bytes(promise: Promise, time: datetime, leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return what the log signed: the ``digitally-signed struct`` of a precertificate entry."""
    key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    milliseconds = int(time.timestamp()) * 1000 + time.microsecond // 1000
    head = struct.pack(">BBQH", 0, 0, milliseconds, 1)  # version 1, certificate timestamp, time, precertificate
    tbs, extensions = leaf.tbs_precertificate_bytes, promise.extension_bytes
    body = hashlib.sha256(key).digest() + len(tbs).to_bytes(3) + tbs
    return head + body + struct.pack(">H", len(extensions)) + extensions
