"""Trust in an identity that signs keylessly through Sigstore, verified offline."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from holdfast.errors import InvalidConfig, SignerUntrusted
from holdfast.signing.envelope import CERTIFICATE, Envelope
from holdfast.signing.keys import PublicKey, load_public
from holdfast.signing.sigstore.artifact import verify_file_signing
from holdfast.signing.sigstore.body import Sealed
from holdfast.signing.sigstore.fulcio import EMAIL
from holdfast.signing.sigstore.roots import load_root
from holdfast.signing.sigstore.trusted_root import TrustedRoot
from holdfast.signing.sigstore.verify import Signing, read_evidence, verify_signing
from holdfast.signing.trust import Identity


@dataclass(frozen=True, kw_only=True)
class SigstoreTrust:
    """Accepts what one identity, or those of one kind, signed; exactly one of the three ways to name it is given.

    Attributes:
        issuer: who vouched for the login, exactly, as ``https://accounts.google.com``.
        root: the pinned authorities and logs.
        identity: the e-mail address or URI in the certificate, exactly.
        domain: the whole domain of an e-mail address: ``example.org`` is not ``sub.example.org``.
        identity_regex: a regular expression that the whole identity must match.
        at: refuse signatures made after this time; None for no such limit.

    Raises:
        InvalidConfig: no issuer, not exactly one way to name the identity, or no regular expression.
    """

    issuer: str
    root: TrustedRoot = field(repr=False)
    identity: str = ""
    domain: str = ""
    identity_regex: str = ""
    at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.issuer or sum(map(bool, (self.identity, self.domain, self.identity_regex))) != 1:
            raise InvalidConfig(
                "a keyless signer is named by an issuer and exactly one of identity, domain and identity-regex",
                hint="an identity means nothing without who vouched for it: issuer=https://...",
            )
        try:
            re.compile(self.identity_regex)
        except re.error as error:
            raise InvalidConfig(f"identity-regex is no regular expression: {error}") from error
        if self.at is not None and self.at.tzinfo is None:
            raise InvalidConfig("at is a time without a time zone", hint="write it as 2026-01-31T12:00:00Z")

    def claims(self, envelope: Envelope, index: int) -> bool:
        """Return whether the signature is the one that the bundle's certificate speaks for, and names no key."""
        return index == 0 and envelope.material.kind == CERTIFICATE and not envelope.signatures[0].keyid

    def accept(self, envelope: Envelope, index: int) -> Identity:
        """Return the identity that made the signature, and when, if this trust accepts it."""
        if not self.claims(envelope, index):
            raise SignerUntrusted("not a keyless signature", hint="the bundle's certificate speaks for its first one")
        evidence, signature = read_evidence(envelope.material), envelope.signatures[index].value
        _key(evidence.leaf).verify(signature, envelope.signed)
        content = Sealed(envelope.payload_type, envelope.payload)
        return self._judge(verify_signing(evidence, content, signature, self.root))

    def accept_file(self, bundle: bytes, path: Path | str) -> Identity:
        """Return who signed the file at ``path`` as it is (a bundle with a ``messageSignature``), and when.

        Raises:
            DigestMismatch: the bundle is about another file.
            VerificationError: as :meth:`accept` does.
        """
        return self._judge(verify_file_signing(bundle, path, self.root))

    def _judge(self, signing: Signing) -> Identity:
        subject = signing.subject
        if subject.issuer != self.issuer:
            raise SignerUntrusted(f"{subject.name!r} was vouched for by {subject.issuer!r}, not by {self.issuer!r}")
        if not self._names(subject.name, subject.kind):
            wanted = self.identity or self.domain or self.identity_regex
            raise SignerUntrusted(f"signed by {subject.name!r}, trusted is {wanted!r}")
        if self.at is not None and signing.time > self.at:
            raise SignerUntrusted(f"signed at {signing.time:%F %T}, after {self.at:%F %T}")
        return Identity("sigstore", subject.name, _key(signing.leaf).fingerprint, subject.issuer, signing.time)

    def _names(self, name: str, kind: str) -> bool:
        if self.identity:
            return name == self.identity
        if self.domain:
            user, _, domain = name.rpartition("@")
            return kind == EMAIL and bool(user) and "@" not in user and domain.lower() == self.domain.lower()
        return re.fullmatch(self.identity_regex, name) is not None


def _key(leaf: x509.Certificate) -> PublicKey:
    return load_public(leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def sigstore_trust(
    issuer: str, root: str, *, identity: str = "", domain: str = "", identity_regex: str = "", at: str = ""
) -> SigstoreTrust:
    """Build the trust of ``sigstore:issuer=...,root=...,identity=...``.

    Args:
        issuer: who vouched for the login, exactly.
        root: the path of a ``trusted_root.json``, or ``public-good`` or ``staging``: the copy in the package sigstore.
        identity, domain, identity_regex: exactly one of them, as in :class:`SigstoreTrust`.
        at: refuse signatures made after this time, as ``2026-01-31T12:00:00Z``.
    """
    return SigstoreTrust(
        issuer=issuer,
        root=load_root(root),
        identity=identity,
        domain=domain,
        identity_regex=identity_regex,
        at=_time(at) if at else None,
    )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidConfig(f"at is {text!r}, no time", hint="write it as 2026-01-31T12:00:00Z") from error
