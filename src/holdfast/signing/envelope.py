"""DSSE envelopes inside Sigstore bundles: the bytes, read strictly and written canonically. No keys and no trust here.

The signed bytes are DSSE's pre-authentication encoding of the payload, so a signature over one kind of document never
passes for another. Of a bundle's ``verificationMaterial`` exactly one variant may be present; it speaks for the first
signature, and every further signature names its key in ``keyid``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast.errors import SignatureInvalid, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PUBLIC_KEY, CHAIN, CERTIFICATE = "publicKey", "x509CertificateChain", "certificate"
VARIANTS = (PUBLIC_KEY, CHAIN, CERTIFICATE)
MAX_SIGNATURES = 64


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature over the envelope; ``keyid`` names its key, or is empty."""

    value: bytes
    keyid: str = ""


@dataclass(frozen=True, slots=True)
class Material:
    """What a bundle brings along to verify its first signature.

    Attributes:
        kind: ``publicKey``, ``x509CertificateChain`` or ``certificate`` (Sigstore).
        value: that variant's JSON object.
        tlog_entries: transparency-log entries, as JSON objects.
        timestamps: RFC 3161 responses, DER.
    """

    kind: str
    value: Mapping[str, Any]
    tlog_entries: tuple[Mapping[str, Any], ...] = ()
    timestamps: tuple[bytes, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object ``verificationMaterial``."""
        value: dict[str, Any] = {self.kind: dict(self.value), "tlogEntries": [dict(item) for item in self.tlog_entries]}
        if self.timestamps:
            tokens = [{"signedTimestamp": to_base64(item)} for item in self.timestamps]
            value["timestampVerificationData"] = {"rfc3161Timestamps": tokens}
        return value


class Checker(Protocol):
    """A public key, as far as envelopes need to know."""

    def verify(self, signature: bytes, message: bytes, *, sha256: bool = False) -> None:
        """Return if the signature is valid; raise otherwise."""
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type, the signatures over both, and what came along to verify them."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]
    material: Material
    media_type: str = field(default=MEDIA_TYPE)

    @property
    def signed(self) -> bytes:
        """The exact bytes under every signature."""
        return pae(self.payload_type, self.payload)

    def check(self, index: int, key: Checker) -> None:
        """Return if ``key`` made signature ``index``; raise :class:`SignatureInvalid` otherwise."""
        key.verify(self.signatures[index].value, self.signed)

    def named(self, index: int) -> str:
        """Return by whom signature ``index`` says to be: its keyid, or what the material says of the first one."""
        if keyid := self.signatures[index].keyid:
            return keyid
        if index > 0:
            return ""
        return str(self.material.value.get("hint", "")) if self.material.kind == PUBLIC_KEY else self.material.kind


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: ``DSSEv1 LEN TYPE LEN PAYLOAD``."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def write_envelope(envelope: Envelope) -> bytes:
    """Return the canonical bytes of the bundle."""
    signatures = [{"sig": to_base64(item.value), "keyid": item.keyid} for item in envelope.signatures]
    return canonical.dumps(
        {
            "mediaType": envelope.media_type,
            "verificationMaterial": envelope.material.to_json(),
            "dsseEnvelope": {
                "payload": to_base64(envelope.payload),
                "payloadType": envelope.payload_type,
                "signatures": signatures,
            },
        }
    )


def read_envelope(data: bytes) -> Envelope:
    """Parse a bundle strictly.

    Raises:
        SignatureInvalid: it has no signature.
        UnreadableArtifact: malformed JSON, a duplicate key, or base64 that is not canonical.
        UnsupportedVersion: another media type, or not exactly one kind of verification material.
    """
    value = canonical.loads(data, what="bundle")
    if not isinstance(value, dict) or value.get("mediaType") != MEDIA_TYPE:
        seen = value.get("mediaType") if isinstance(value, dict) else type(value).__name__
        raise UnsupportedVersion(f"unknown bundle media type {seen!r}", hint=f"this version reads {MEDIA_TYPE}")
    envelope = value.get("dsseEnvelope")
    if not isinstance(envelope, dict):
        raise UnreadableArtifact("the bundle has no DSSE envelope")
    if not isinstance(envelope.get("payloadType"), str):
        raise UnreadableArtifact("the bundle's payload has no type")
    return Envelope(
        payload=from_base64(envelope.get("payload"), "payload"),
        payload_type=envelope["payloadType"],
        signatures=_signatures(envelope.get("signatures")),
        material=read_material(value.get("verificationMaterial")),
    )


def _signatures(entries: Any) -> tuple[Signature, ...]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise SignatureInvalid("the bundle has no signature")
    if len(entries) > MAX_SIGNATURES:
        raise UnreadableArtifact(f"the bundle has {len(entries)} signatures, more than {MAX_SIGNATURES}")
    return tuple(Signature(from_base64(entry.get("sig"), "signature"), _keyid(entry)) for entry in entries)


def _keyid(entry: Mapping[str, Any]) -> str:
    keyid = entry.get("keyid") or ""  # some writers put null, some nothing
    if not isinstance(keyid, str):
        raise UnreadableArtifact(f"the bundle names a key by {keyid!r}")
    return keyid


def read_material(value: Any) -> Material:
    """Parse the JSON object ``verificationMaterial`` strictly; raises as :func:`read_envelope` does."""
    present = [kind for kind in VARIANTS if isinstance(value, dict) and kind in value]
    if len(present) != 1 or not isinstance(value[present[0]], dict):
        seen = " and ".join(present) or "nothing"
        raise UnsupportedVersion(f"the bundle is verified by {seen}, not by one key, chain or certificate")
    entries = value.get("tlogEntries") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UnreadableArtifact("the bundle's log entries are malformed")
    return Material(present[0], value[present[0]], tuple(entries), _timestamps(value.get("timestampVerificationData")))


def _timestamps(value: Any) -> tuple[bytes, ...]:
    tokens = value.get("rfc3161Timestamps") or [] if isinstance(value, dict) else []
    if (value is not None and not isinstance(value, dict)) or not isinstance(tokens, list):
        raise UnreadableArtifact("the bundle's timestamps are malformed")
    signed = (token.get("signedTimestamp") if isinstance(token, dict) else None for token in tokens)
    return tuple(from_base64(token, "timestamp") for token in signed)


def to_base64(data: bytes) -> str:
    """Return standard base64."""
    return base64.b64encode(data).decode()


def from_base64(value: Any, what: str) -> bytes:
    """Decode standard base64 in its one canonical spelling; raise :class:`UnreadableArtifact` otherwise."""
    if not isinstance(value, str):
        raise UnreadableArtifact(f"the bundle's {what} is missing")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableArtifact(f"the bundle's {what} is not base64: {error}") from error
    if to_base64(data) != value:
        raise UnreadableArtifact(f"the bundle's {what} is not in canonical base64")
    return data
