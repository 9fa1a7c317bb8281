"""Certificate chains of devices: short, ordered, ending in one pinned root, all valid at a stated time.

Vendors' device certificates carry private extensions and no usages, so the rules for signers of models do not fit.
What is required here: each certificate issued the one before it with a right to do so, and the last is a root that
was chosen beforehand. Nothing is fetched and nothing is searched for.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast.errors import SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.roots import key_digest

MAX_CHAIN = 8
MAX_PEM = 1 << 16  # bytes of a chain
_MALFORMED = (
    ValueError, TypeError, UnsupportedAlgorithm,
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
_STRONG = ("sha256", "sha384", "sha512")


def from_der(data: bytes, what: str) -> x509.Certificate:
    """Return one certificate; raise :class:`UnreadableArtifact` unless ``data`` is exactly one in DER."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a serial number that the standard forbids
            certificate = x509.load_der_x509_certificate(data)
            return _readable(certificate, data)
    except (*_MALFORMED, Warning) as error:
        raise UnreadableArtifact(f"the {what} is no readable certificate: {error}") from error


def _readable(certificate: x509.Certificate, data: bytes) -> x509.Certificate:
    _ = certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    _ = certificate.subject.rfc4514_string(), certificate.public_key(), certificate.serial_number
    # the count of unused bits before the signature is not signed, and the library reads over it
    if certificate.public_bytes(Encoding.DER) != data or not data.endswith(b"\0" + certificate.signature):
        raise ValueError("it is not in DER")
    return certificate


def from_pem(data: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM text in their order; raise :class:`UnreadableArtifact` for none or too many."""
    if len(data) > MAX_PEM:
        raise UnreadableArtifact(f"the {what} is longer than {MAX_PEM} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = x509.load_pem_x509_certificates(data)
    except (*_MALFORMED, Warning) as error:
        raise UnreadableArtifact(f"the {what} holds no readable PEM certificate") from error
    if not 1 <= len(found) <= MAX_CHAIN:
        raise UnreadableArtifact(f"the {what} holds {len(found)} certificates, not 1 to {MAX_CHAIN}")
    return tuple(from_der(item.public_bytes(Encoding.DER), what) for item in found)


def trusted(policy: Policy, vendor: Collection[str]) -> frozenset[str]:
    """Return the digests of the root keys to trust: those of the policy, or else the vendor's."""
    chosen = [key_digest(root) for pem in policy.roots for root in from_pem(pem, "trusted root")]
    return frozenset(chosen or vendor)


def require_chain(chain: Sequence[x509.Certificate], roots: Collection[str], at: datetime) -> str:
    """Walk a chain from its leaf to a root and return the digest of the root's key.

    Raises:
        SignerUntrusted: the last certificate is no trusted root, something is not valid at ``at``, or somebody issued
            a certificate without the right to.
        SignatureInvalid: a certificate was not issued by the next.
    """
    root = key_digest(chain[-1])
    if root not in roots:
        raise SignerUntrusted(f"the chain ends in {_name(chain[-1])}, which is no trusted root")
    for below, (certificate, issuer) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
        require_valid_at(certificate, at)
        require_issued(certificate, issuer)
        if below:
            _require_authority(certificate, below - 1)
    return root


def require_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise :class:`SignatureInvalid` unless ``issuer`` signed ``certificate``, and over a strong hash."""
    try:
        certificate.verify_directly_issued_by(issuer)
        algorithm = certificate.signature_hash_algorithm
    except (InvalidSignature, *_MALFORMED) as error:
        raise SignatureInvalid(f"{_name(certificate)} was not issued by {_name(issuer)}") from error
    if algorithm is None or algorithm.name not in _STRONG:
        raise SignerUntrusted(f"{_name(certificate)} is signed over a weak hash")


def require_valid_at(certificate: x509.Certificate, at: datetime) -> None:
    """Raise :class:`SignerUntrusted` unless ``at`` is within the certificate's validity."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= at <= end:
        raise SignerUntrusted(
            f"{_name(certificate)} is valid from {start:%F %T} to {end:%F %T} UTC, not at {at:%F %T}",
            hint="evidence is verified for the time it was made at, or it is too old",
        )


def _require_authority(certificate: x509.Certificate, below: int) -> None:
    found = {type(item.value): item.value for item in certificate.extensions}
    constraints, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        raise SignerUntrusted(f"{_name(certificate)} issued a certificate and is no authority")
    if constraints.path_length is not None and below > constraints.path_length:
        raise SignerUntrusted(f"{_name(certificate)} has more authorities below it than it may")
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        raise SignerUntrusted(f"{_name(certificate)} may not sign certificates")


def require_signed(key: object, signature: bytes, message: bytes, what: str) -> None:
    """Check a raw ECDSA signature on P-384 over SHA-384: r and s, big-endian, 48 bytes each.

    Raises:
        SignatureInvalid: it does not verify.
        SignerUntrusted: the key is of another kind.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SignerUntrusted(f"the key of the {what} is not on P-384")
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise SignatureInvalid(f"the signature of the {what} does not verify") from error


def _name(certificate: x509.Certificate) -> str:
    return f"certificate {certificate.subject.rfc4514_string()!r}"
