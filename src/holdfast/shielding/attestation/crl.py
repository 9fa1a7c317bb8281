"""Revocation lists that come along with a chain: signed by the chain's own root, and current."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from holdfast.errors import SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy


def require_listed_nowhere(chain: Sequence[x509.Certificate], evidence: Evidence, policy: Policy, at: datetime) -> bool:
    """Check the certificates of ``chain`` against the list in the collateral ``crl``, issued by the chain's root.

    Returns:
        Whether there was a list to check against.

    Raises:
        SignerUntrusted: revoked; or the list is not current; or there is none, and the policy demands one.
        SignatureInvalid: the list is not the root's.
        UnreadableArtifact: it is malformed.
    """
    if "crl" not in evidence.collateral:
        if policy.revocation:
            raise SignerUntrusted("the policy demands a revocation list", hint="--collateral crl=FILE")
        return False
    revoked = _read(evidence.collateral["crl"], chain[-1], at)
    for certificate in chain:
        if certificate.serial_number in revoked:
            raise SignerUntrusted(f"certificate {certificate.subject.rfc4514_string()!r} is revoked")
    return True


def _read(data: bytes, root: x509.Certificate, at: datetime) -> frozenset[int]:
    """Return the serial numbers that a list revokes, once it is found signed by ``root`` and current."""
    try:
        found = x509.load_der_x509_crl(data)
        genuine = found.issuer == root.subject and found.is_signature_valid(root.public_key())  # type: ignore[arg-type]
        start, end = found.last_update_utc, found.next_update_utc
        serials = frozenset(item.serial_number for item in found)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnreadableArtifact(f"the revocation list is unreadable: {error}") from error
    if not genuine:
        raise SignatureInvalid("the revocation list is not signed by the chain's root")
    if end is None or not start <= at <= end:
        raise SignerUntrusted(f"the revocation list is not current at {at:%F %T} UTC")
    return serials
