"""Attestation: what hardware says about a world, verified offline and held against a policy."""

from holdfast.shielding.attestation import dcap, nitro, nvidia, snp, tpm  # noqa: F401  (register the built-in verifiers)
from holdfast.shielding.attestation.binding import bound
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.evidence import Evidence, read_evidence
from holdfast.shielding.attestation.policy import Policy, read_policy
from holdfast.shielding.attestation.verify import Verifier, verifiers, verify

__all__ = [
    "Claims",
    "Evidence",
    "Policy",
    "Verifier",
    "bound",
    "read_evidence",
    "read_policy",
    "verifiers",
    "verify",
]
