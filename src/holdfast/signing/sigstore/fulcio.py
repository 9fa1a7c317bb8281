"""Certificates of Fulcio: who they name, who vouched for that, and whether a pinned authority issued them.

The identity is the one subject alternative name; the issuer of the login is an extension of Sigstore's own
(``1.3.6.1.4.1.57264.1``, fulcio ``docs/oid-info.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.signing.sigstore.chain import verify_path
from holdfast.signing.sigstore.trusted_root import Authority, TrustedRoot
from holdfast.signing.x509.certificates import extension

ISSUER_RAW = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
OTHER_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
EMAIL, URI, OTHER = "email", "uri", "other"
_MOST = 1024  # characters of a name


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate names: the ``name``, its ``kind`` (``email``, ``uri`` or ``other``), and who vouched."""

    name: str
    kind: str
    issuer: str


def read_subject(leaf: x509.Certificate) -> Subject:
    """Return whom ``leaf`` names; it is believed only after :func:`verify_leaf`.

    Raises:
        SignerUntrusted: no name, several names, a name of another kind, no issuer, or two that differ.
    """
    names = extension(leaf, x509.SubjectAlternativeName)
    if names is None or len(list(names)) != 1:
        raise SignerUntrusted("the certificate does not name exactly one identity")
    name, kind = _name(next(iter(names)))
    if not 0 < len(name) <= _MOST or any(ord(letter) < 32 for letter in name):
        raise SignerUntrusted("the certificate's identity is empty, too long, or has control characters")
    return Subject(name, kind, _issuer(leaf))


def _name(name: x509.GeneralName) -> tuple[str, str]:
    if isinstance(name, x509.RFC822Name):
        return name.value, EMAIL
    if isinstance(name, x509.UniformResourceIdentifier):
        return name.value, URI
    if isinstance(name, x509.OtherName) and name.type_id == OTHER_NAME:
        return _utf8_string(name.value), OTHER
    raise SignerUntrusted(f"the certificate names a {type(name).__name__}, no e-mail address, URI or Fulcio name")


def _issuer(leaf: x509.Certificate) -> str:
    raw, tagged = _unknown(leaf, ISSUER_RAW), _unknown(leaf, ISSUER)
    issuers = {_decode(raw)} if raw is not None else set()
    if tagged is not None:
        issuers.add(_utf8_string(tagged))
    if len(issuers) != 1 or "" in issuers:
        raise SignerUntrusted("the certificate does not say by exactly one issuer who vouched for its identity")
    return issuers.pop()


def _unknown(leaf: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    try:
        value = leaf.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else None


def _utf8_string(der: bytes) -> str:
    """Return a DER UTF8String (tag 12): a length byte below 128, or the minimal long form."""
    head = 2 if der[1:2] < b"\x80" else 2 + (der[1] & 0x7F) if len(der) > 1 else 0
    size = der[1] if head == 2 else int.from_bytes(der[2:head])
    minimal = head == 2 or (head in (3, 4) and size >= (128 if head == 3 else 256))
    if der[:1] != b"\x0c" or not minimal or len(der) != head + size:
        raise UnreadableArtifact("a certificate's text is no DER UTF8String")
    return _decode(der[head:])


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableArtifact("a certificate's text is not UTF-8") from error


def verify_leaf(leaf: x509.Certificate, root: TrustedRoot, time: datetime) -> x509.Certificate:
    """Return the certificate of the pinned authority that issued ``leaf``, a code-signing certificate at ``time``.

    Raises:
        SignerUntrusted: no authority believed at ``time`` issued it, or it is not for signing code.
        SignatureInvalid: an authority of that name did not sign it.
    """
    _require_code_signing(leaf)
    believed = [item for item in root.authorities if item.chain[0].subject == leaf.issuer]
    if not believed:
        raise SignerUntrusted(f"the trusted root knows no authority {leaf.issuer.rfc4514_string()!r}")
    refusals: list[SignatureInvalid | SignerUntrusted] = []
    for authority in believed:
        try:
            return _verify_with(leaf, authority, time)
        except (SignatureInvalid, SignerUntrusted) as error:
            refusals.append(error)
    raise refusals[0]


def _verify_with(leaf: x509.Certificate, authority: Authority, time: datetime) -> x509.Certificate:
    if not authority.validity.holds(time):
        raise SignerUntrusted(f"the trusted root does not believe the certificate's authority at {time:%F %T}")
    verify_path(leaf, authority.chain, time)
    return authority.chain[0]


def _require_code_signing(leaf: x509.Certificate) -> None:
    constraints = extension(leaf, x509.BasicConstraints)
    usage, purposes = extension(leaf, x509.KeyUsage), extension(leaf, x509.ExtendedKeyUsage)
    if constraints is not None and constraints.ca:
        raise SignerUntrusted("the signer's certificate is a certificate authority's")
    if usage is None or not usage.digital_signature or usage.key_cert_sign:
        raise SignerUntrusted("the signer's certificate is not for digital signatures (key usage)")
    if purposes is None or list(purposes) != [ExtendedKeyUsageOID.CODE_SIGNING]:
        raise SignerUntrusted("the signer's certificate is not for signing code (extended key usage)")
