"""Signed statements: an in-toto statement in an envelope, signed by one or several, verified against those trusted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from holdfast.errors import SignatureInvalid, UnsupportedVersion
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement
from holdfast.signing.envelope import Envelope, Signature, read_envelope, write_envelope
from holdfast.signing.keys import key_material
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.trust import Identity
from holdfast.signing.trusts import KeyTrust, Threshold, TrustSources, require_threshold


@dataclass(frozen=True, slots=True)
class Verified:
    """Proof that ``signers`` signed ``statement``; only verification makes one."""

    statement: Statement
    signers: tuple[Identity, ...]
    self_signed: bool = False  # verified with the key that came along: integrity without identity

    @property
    def signer(self) -> str:
        """The name of the first signer: a key's fingerprint, or the name in a certificate."""
        return self.signers[0].name


def sign_statement(statement: Statement, signer: Signer, *more: KeyHolder) -> bytes:
    """Return the canonical bytes of a bundle with the signatures of ``signer`` and of ``more`` over ``statement``.

    The bundle's verification material is the first signer's; the others are named by the fingerprint of their key.
    """
    payload = statement.to_bytes()
    value, material = signer.seal(PAYLOAD_TYPE, payload)
    envelope = Envelope(payload, PAYLOAD_TYPE, (Signature(value),), material)
    return write_envelope(_with_signatures(envelope, more))


def add_signature(bundle: bytes, *more: KeyHolder) -> bytes:
    """Return ``bundle`` with the signatures of ``more`` over the same payload, which is neither checked nor changed."""
    return write_envelope(_with_signatures(read_envelope(bundle), more))


def _with_signatures(envelope: Envelope, signers: tuple[KeyHolder, ...]) -> Envelope:
    added = tuple(
        Signature(signer.seal(envelope.payload_type, envelope.payload)[0], signer.public.fingerprint)
        for signer in signers
    )
    return dataclasses.replace(envelope, signatures=envelope.signatures + added)


def verify_bundle(data: bytes, trust: TrustSources | Threshold, *, require_canonical: bool = False) -> Verified:
    """Return the statement that ``trust`` signed.

    Args:
        data: the bundle's bytes.
        trust: who must have signed: anything :func:`load_trust` reads, or a threshold of several.
        require_canonical: also refuse a bundle with any unsigned byte changed: it must be exactly what
            :func:`sign_statement` writes around that payload, those signatures and that one key.

    Raises:
        SignatureInvalid: no signature, or one that does not verify over the exact payload.
        SignerUntrusted: others signed, or too few of those trusted.
        UnreadableArtifact: malformed JSON, base64 or statement.
        UnsupportedVersion: another media type, payload type or kind of verification material.
    """
    envelope = read_envelope(data)
    threshold = trust if isinstance(trust, Threshold) else require_threshold(trust)
    proof = verify_envelope(envelope, threshold)
    if require_canonical and _canonical(envelope, threshold) != data:
        raise SignatureInvalid("the bundle is not in canonical form, so unsigned bytes of it changed")
    return proof


def verify_envelope(envelope: Envelope, trust: Threshold) -> Verified:
    """Return the statement that ``trust`` signed; raises as :func:`verify_bundle` does."""
    if envelope.payload_type != PAYLOAD_TYPE:
        raise UnsupportedVersion(f"unknown payload type {envelope.payload_type!r}")
    signers = trust.judge(envelope)
    return Verified(Statement.from_bytes(envelope.payload), signers)


def _canonical(envelope: Envelope, threshold: Threshold) -> bytes | None:
    """Return the one spelling of a bundle by one key; None for all others, whose unsigned parts have none."""
    member = threshold.members[0]
    if len(threshold.members) != 1 or not isinstance(member, KeyTrust):
        return None
    bare = tuple(Signature(item.value) for item in envelope.signatures)
    return write_envelope(Envelope(envelope.payload, PAYLOAD_TYPE, bare, key_material(member.key)))
