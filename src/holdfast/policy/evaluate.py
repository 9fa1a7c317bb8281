"""Holding the evidence of an assessment against a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import PolicyError, SignerUntrusted
from holdfast.evidence.record import Measurement, Record
from holdfast.policy.model import Policy, Requirement, read_policy
from holdfast.signing import Verified, verify_passport
from holdfast.signing.keys import load_public
from holdfast.signing.passport import passport_records


@dataclass(frozen=True, slots=True)
class Satisfied:
    """One requirement that is met, and by what."""

    requirement: Requirement
    records: tuple[str, ...]  # file names
    explanation: str


def check(folder: Path | str, policy: Policy | Path | str) -> list[Satisfied]:
    """Return every requirement with the records that meet it, or raise.

    The passport is verified first; a policy with a signer accepts that key only. Every record of a required kind must
    meet the requirement, so a bad one cannot hide behind a good one.

    Raises:
        PolicyError: a requirement is not met; names the requirement and the record.
        VerificationError: the passport itself does not hold.
    """
    rules = policy if isinstance(policy, Policy) else read_policy(policy)
    trust = None if rules.signer is None else load_public(rules.folder / rules.signer)
    proof = verify_passport(folder, trust)
    records = passport_records(folder, proof)
    return [_require(rules, requirement, records, proof) for requirement in rules.require]


def _require(rules: Policy, requirement: Requirement, records: dict[str, Record], proof: Verified) -> Satisfied:
    if requirement.signer is not None and proof.signer != load_public(rules.folder / requirement.signer).fingerprint:
        raise SignerUntrusted(f"{requirement.kind} must be signed by {requirement.signer}, not by {proof.signer[:16]}")
    found = {name: record for name, record in records.items() if record.kind == requirement.kind}
    if not found:
        raise PolicyError(f"the policy requires a {requirement.kind} record and the passport has none")
    verdicts = [_judge(requirement, name, record) for name, record in found.items()]
    return Satisfied(requirement, tuple(found), "; ".join(verdicts))


def _judge(requirement: Requirement, name: str, record: Record) -> str:
    if requirement.measure is None:
        return f"{name} is there"
    item = record.measured.get(requirement.measure)
    if item is None:
        hint = f"it measured {', '.join(record.measured)}"
        raise PolicyError(f"{name} did not measure the required {requirement.measure}", hint=hint)
    seen = f"{requirement.measure} = {item.value:.4g} [{item.low:.4g}, {item.high:.4g}], n = {item.n}"
    for bound, limit in requirement.bounds().items():
        if not _holds(bound, item, limit):
            raise PolicyError(f"{name} fails {requirement.kind} {bound} = {limit:g}: {seen}")
    return f"{name}: {seen}"


def _holds(bound: str, item: Measurement, limit: float) -> bool:
    tests = {
        "high_below": item.high < limit,
        "low_above": item.low > limit,
        "value_below": item.value < limit,
        "value_above": item.value > limit,
        "n_at_least": item.n >= limit,
    }
    return tests[bound]
