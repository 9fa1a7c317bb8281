"""What one certificate must be like, as a leaf or as an authority. Each check refuses with a sentence that names it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import SignerUntrusted
from holdfast.signing.x509.certificates import MALFORMED, describe, extension

STRONG_HASHES = ("sha256", "sha384", "sha512")
CURVES = ("secp256r1", "secp384r1", "secp521r1")
MIN_RSA = 2048  # bits of an authority's key
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.CertificatePolicies)


@dataclass(frozen=True)
class Purpose:
    """What a leaf is for: an extended key usage, by object identifier; ``alone``: critical and with no other beside."""

    name: str
    usage: x509.ObjectIdentifier
    alone: bool = False


CODE_SIGNING = Purpose("codeSigning", ExtendedKeyUsageOID.CODE_SIGNING)
TIME_STAMPING = Purpose("timeStamping", ExtendedKeyUsageOID.TIME_STAMPING, alone=True)  # RFC 3161, section 2.3


def require_leaf(leaf: x509.Certificate, purpose: Purpose, time: datetime, *, allow_ca: bool = False) -> None:
    """Check the certificate of a signer.

    Raises:
        SignerUntrusted: not valid at ``time``, not for ``purpose``, an authority, or something not understood.
    """
    _require_understood(leaf, (*_UNDERSTOOD, x509.SubjectAlternativeName))
    require_valid_at(leaf, time)
    constraints = extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca and not allow_ca:
        raise SignerUntrusted(
            f"{describe(leaf)} is an authority, not a signer", hint="allow-ca-leaf=true accepts such certificates"
        )
    usage = extension(leaf, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or (purpose.alone and usage.content_commitment)):
        raise SignerUntrusted(f"{describe(leaf)} is not for digital signatures (keyUsage)")
    _require_purpose(leaf, purpose)


def _require_purpose(leaf: x509.Certificate, purpose: Purpose) -> None:
    usages = extension(leaf, x509.ExtendedKeyUsage)
    if usages is None or purpose.usage not in usages:
        hint = "anyExtendedKeyUsage is not enough" if usages is not None else "it has no extended key usage"
        raise SignerUntrusted(f"{describe(leaf)} is not for {purpose.name} (extendedKeyUsage)", hint=hint)
    critical = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).critical
    if purpose.alone and (len(list(usages)) != 1 or not critical):
        raise SignerUntrusted(
            f"{describe(leaf)} is not for {purpose.name} alone (RFC 3161 wants it critical and alone)"
        )


def require_authority(authority: x509.Certificate, purpose: Purpose, time: datetime, below: int) -> None:
    """Check an authority with ``below`` further authorities between it and the leaf.

    Raises:
        SignerUntrusted: not valid at ``time``, not an authority, or not one for this length and purpose of path.
    """
    _require_understood(authority, (*_UNDERSTOOD, x509.SubjectAlternativeName))
    require_valid_at(authority, time)
    constraints = extension(authority, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise SignerUntrusted(f"{describe(authority)} issued a certificate and is no authority (basicConstraints)")
    if constraints.path_length is not None and below > constraints.path_length:
        raise SignerUntrusted(
            f"{describe(authority)} may have {constraints.path_length} authorities below, not {below}"
        )
    usage = extension(authority, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise SignerUntrusted(f"{describe(authority)} may not sign certificates (keyUsage)")
    usages = extension(authority, x509.ExtendedKeyUsage)
    if usages is not None and not {purpose.usage, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
        raise SignerUntrusted(f"{describe(authority)} may not certify for {purpose.name} (extendedKeyUsage)")


def require_valid_at(certificate: x509.Certificate, time: datetime) -> None:
    """Raise :class:`SignerUntrusted` unless ``time`` is within the certificate's validity, both ends included."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if time < start:
        raise SignerUntrusted(f"{describe(certificate)} is not valid before {start:%Y-%m-%d %H:%M} UTC")
    if time > end:
        hint = "sign with a timestamp, and verify with tsa-roots=, so that signatures outlive certificates"
        raise SignerUntrusted(f"{describe(certificate)} expired on {end:%Y-%m-%d %H:%M} UTC", hint=hint)


def require_strong(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise :class:`SignerUntrusted` if the issuer's signature on the certificate rests on a weak hash or key."""
    try:
        algorithm = certificate.signature_hash_algorithm
        key = issuer.public_key()
    except MALFORMED as error:
        raise SignerUntrusted(f"{describe(certificate)} is signed in a way that is not supported") from error
    if algorithm is not None and algorithm.name not in STRONG_HASHES:
        raise SignerUntrusted(f"{describe(certificate)} is signed over the weak hash {algorithm.name}")
    strong = (
        (isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA)
        or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES)
        or isinstance(key, ed25519.Ed25519PublicKey)
    )
    if not strong:
        raise SignerUntrusted(f"{describe(issuer)} has a weak or unknown kind of key")


def _require_understood(certificate: x509.Certificate, understood: tuple[type[x509.ExtensionType], ...]) -> None:
    for item in certificate.extensions:
        if isinstance(item.value, x509.NameConstraints):
            raise SignerUntrusted(f"{describe(certificate)} has name constraints, which this version does not apply")
        if item.critical and not isinstance(item.value, understood):
            raise SignerUntrusted(
                f"{describe(certificate)} has the unknown critical extension {item.oid.dotted_string}"
            )
