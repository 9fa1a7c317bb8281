"""DSSE envelopes in Sigstore bundles: the one container of all signed evidence.

The signed bytes are DSSE's pre-authentication encoding of the payload, so a signature over one kind of document never
passes for another. Reading is strict: standard base64 only, no duplicate keys, every signature must verify.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from holdfast.errors import SignatureInvalid, SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement
from holdfast.signing.keys import PublicKey, Signer

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True, slots=True)
class Verified:
    """Proof that ``signer`` signed ``statement``; only verification makes one."""

    statement: Statement
    signer: str  # SHA-256 fingerprint of the public key
    self_signed: bool = False  # verified with the key that came along: integrity without identity


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: ``DSSEv1 LEN TYPE LEN PAYLOAD``."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: Statement, signer: Signer) -> bytes:
    """Return the canonical bytes of a bundle with one signature over ``statement``."""
    payload = statement.to_bytes()
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return _assemble(payload, [signature], signer.public.fingerprint)


def _assemble(payload: bytes, signatures: list[bytes], fingerprint: str) -> bytes:
    return canonical.dumps(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": fingerprint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(item).decode(), "keyid": ""} for item in signatures],
            },
        }
    )


def verify_bundle(data: bytes, trust: PublicKey, *, require_canonical: bool = False) -> Verified:
    """Return the statement that ``trust`` signed.

    Args:
        data: the bundle's bytes.
        trust: the only key accepted.
        require_canonical: also refuse a bundle with any unsigned byte changed: it must be exactly what
            :func:`sign_statement` writes around that payload, those signatures and that key.

    Raises:
        SignatureInvalid: no signature, or one that does not verify over the exact payload.
        SignerUntrusted: the bundle names another key.
        UnreadableArtifact: malformed JSON, base64 or statement.
        UnsupportedVersion: another media type, payload type or kind of verification material.
    """
    value = canonical.loads(data, what="bundle")
    envelope = _envelope(value)
    _check_key(value.get("verificationMaterial"), trust)
    payload = _base64(envelope.get("payload"), "payload")
    signatures = [_base64(entry.get("sig"), "signature") for entry in _signatures(envelope)]
    for signature in signatures:
        trust.verify(signature, pae(PAYLOAD_TYPE, payload))
    if require_canonical and _assemble(payload, signatures, trust.fingerprint) != data:
        raise SignatureInvalid("the bundle is not in canonical form, so unsigned bytes of it changed")
    return Verified(Statement.from_bytes(payload), trust.fingerprint)


def _envelope(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("mediaType") != MEDIA_TYPE:
        seen = value.get("mediaType") if isinstance(value, dict) else type(value).__name__
        raise UnsupportedVersion(f"unknown bundle media type {seen!r}", hint=f"this version reads {MEDIA_TYPE}")
    envelope = value.get("dsseEnvelope")
    if not isinstance(envelope, dict):
        raise UnreadableArtifact("the bundle has no DSSE envelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise UnsupportedVersion(f"unknown payload type {envelope.get('payloadType')!r}")
    return envelope


def _check_key(material: Any, trust: PublicKey) -> None:
    kinds = {"publicKey", "certificate", "x509CertificateChain"}
    present = kinds & material.keys() if isinstance(material, dict) else set()
    if present != {"publicKey"} or not isinstance(material["publicKey"], dict):
        raise UnsupportedVersion(
            f"the bundle is verified by {' and '.join(sorted(present)) or 'nothing'}, not by one key"
        )
    key = material["publicKey"]
    if "rawBytes" in key and _base64(key["rawBytes"], "public key") != trust.pem:
        raise SignerUntrusted("the bundle carries another public key than the trusted one")
    if "hint" in key and key["hint"] != trust.fingerprint:
        raise SignerUntrusted(f"signed by key {str(key['hint'])[:16]}, trusted is {trust.fingerprint[:16]}")


def _signatures(envelope: dict[str, Any]) -> list[dict[str, Any]]:
    entries = envelope.get("signatures")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise SignatureInvalid("the bundle has no signature")
    return entries


def _base64(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise UnreadableArtifact(f"the bundle's {what} is missing")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableArtifact(f"the bundle's {what} is not base64: {error}") from error
    if base64.b64encode(data).decode() != value:
        raise UnreadableArtifact(f"the bundle's {what} is not in canonical base64")
    return data
