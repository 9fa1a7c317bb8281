"""``Evidence -> Verifier -> Claims``: authenticate, then judge.

A verifier of a kind checks signatures, certificate chains and the structure of evidence for a stated time, without
a network. A policy then decides whether what was said is good enough. Both raise; there is no result to forget.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig, PolicyError
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy


class Verifier(Protocol):
    """Authenticates one kind of evidence."""

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        """Return what the evidence says.

        Args:
            evidence: of this verifier's kind.
            policy: whom to trust; its other demands are judged afterwards.
            at: the time for which certificates and lists must be valid.

        Raises:
            UnreadableArtifact: it is malformed.
            SignatureInvalid, SignerUntrusted: it is forged, or vouched for by nobody trusted at that time.
        """
        ...


verifiers: Registry[Verifier] = Registry("attestation verifier", "holdfast.attestation_verifiers")


def verify(evidence: Evidence, policy: Policy, *, nonce: bytes | None, at: datetime) -> Claims:
    """Return what ``evidence`` says, if it is authentic at ``at`` and meets ``policy``.

    Args:
        evidence: what the world sent.
        policy: what it must be like.
        nonce: the bytes this verifier had asked to be signed, at least 16, never used before; see
            :func:`~holdfast.shielding.attestation.binding.bound` for those of a session. None only where the policy
            says ``unfresh``.
        at: the time to evaluate for, with a time zone. There is no default: evidence and collateral expire.

    Raises:
        PolicyError: authentic, but not what the policy demands.
        SignatureInvalid, SignerUntrusted: forged, expired, or vouched for by nobody trusted.
        UnreadableArtifact: malformed.
        InvalidConfig: no time zone, or a nonce that is too short.
    """
    if at.tzinfo is None:
        raise InvalidConfig("the time to evaluate for needs a time zone", hint="datetime.now(UTC)")
    if evidence.kind != policy.kind:
        raise PolicyError(f"the evidence is of kind {evidence.kind!r}, the policy demands {policy.kind!r}")
    claims = verifiers.get(evidence.kind)().authenticate(evidence, policy, at)
    policy.judge(claims, nonce=nonce, at=at)
    return claims
