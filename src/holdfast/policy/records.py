"""The judge of ``[passport]`` and ``[[require]]``: measured values in signed records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import PolicyError, RecordMissing, SignerUntrusted
from holdfast.evidence.record import RECORD_TYPE, Measurement, Record
from holdfast.policy.bundles import LIMIT
from holdfast.policy.case import Case
from holdfast.policy.model import Requirement
from holdfast.signing import Verified, verify_passport
from holdfast.signing.passport import BUNDLE, passport_records

Found = tuple[str, tuple[str, ...]]  # an explanation, and the files that decided


def judge_passport(case: Case) -> Found:
    """Return whose passport the assessment carries."""
    folder = _passport_folder(case)
    proof = _verify(case, folder)
    if proof.self_signed:
        return f"{folder / BUNDLE} is whole; it was verified with its own key, so nobody vouches for the signer", (
            BUNDLE,
        )
    return f"{folder / BUNDLE} is signed by {proof.signer[:16]}", (BUNDLE,)


def _passport_folder(case: Case) -> Path:
    if case.is_assessment:
        return case.path
    folders = [place for place in case.evidence if (place / BUNDLE).is_file()]
    if len(folders) != 1:
        raise RecordMissing(f"there are {len(folders)} passports with {case.path}, not one", hint="name one folder")
    return folders[0]


def _verify(case: Case, folder: Path) -> Verified:
    signer = None if case.policy.passport is None else case.policy.passport.signer
    if signer is None and folder != case.path:
        raise SignerUntrusted(f"no table says whose passport {folder} may be", hint='add [passport] signer = "LAB.pub"')
    proof = verify_passport(folder, None if signer is None else case.trust((signer,)))
    data = read_bytes(folder / BUNDLE, "passport", limit=LIMIT)
    case.require_unrevoked_bundle(data)
    case.note(folder / BUNDLE, data)
    return proof


def judge_requirement(case: Case, requirement: Requirement) -> Found:
    """Return how every record of the required kind meets the requirement; a bad one cannot hide behind a good one.

    Raises:
        PolicyError: there is none, or one fails.
        VerificationError: the passport does not hold, or somebody else signed.
    """
    found = dict(_records(case, requirement))
    if not found:
        raise PolicyError(f"the policy requires a {requirement.kind} record and no passport or other evidence has one")
    return "; ".join(_judge(requirement, name, record) for name, record in found.items()), tuple(found)


def _records(case: Case, requirement: Requirement) -> Iterator[tuple[str, Record]]:
    """Yield all records of the kind: of the passport, and for a model also those signed one by one."""
    if case.is_assessment or any((place / BUNDLE).is_file() for place in case.evidence):
        yield from _in_passport(case, requirement)
    if not case.is_assessment:
        yield from _signed_alone(case, requirement)


def _in_passport(case: Case, requirement: Requirement) -> Iterator[tuple[str, Record]]:
    folder = _passport_folder(case)
    proof = _verify(case, folder)
    if requirement.signer is not None:
        verify_passport(folder, case.trust((requirement.signer,)))
    for name, record in passport_records(folder, proof).items():
        if record.kind == requirement.kind:
            if folder != case.path:
                _require_about(case, name, record)
            yield name, record


def _signed_alone(case: Case, requirement: Requirement) -> Iterator[tuple[str, Record]]:
    passport = case.policy.passport
    signer = requirement.signer or (None if passport is None else passport.signer)
    bundles = [item for item in case.bundles if item.claimed.predicate_type == f"{RECORD_TYPE}/{requirement.kind}"]
    if bundles and signer is None:
        raise SignerUntrusted(f"no table says who may sign {requirement.kind} records", hint='signer = "LAB.pub"')
    for bundle in bundles:
        proof = case.verify_evidence(bundle, case.trust((str(signer),)))
        if proof is not None:
            record = Record.from_json(dict(proof.statement.predicate))
            if record.subject != proof.statement.subjects[0] or record.kind != requirement.kind:
                raise PolicyError(f"{bundle.path.name} is a statement about another thing than its record")
            _require_about(case, bundle.path.name, record)
            yield bundle.path.name, record


def _require_about(case: Case, name: str, record: Record) -> None:
    """Refuse a record of another model; records name models by the digest of what is loaded from the files."""
    if dict(record.subject.digest) != {"blake3": case.loaded_digest}:
        raise PolicyError(f"{name} is about another model")


def _judge(requirement: Requirement, name: str, record: Record) -> str:
    _require_setting(requirement, name, record)
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


def _require_setting(requirement: Requirement, name: str, record: Record) -> None:
    """Refuse a record that was measured on other data, or otherwise, than the policy says."""
    if absent := [item for item in requirement.data if item not in record.inputs.values()]:
        told = ", ".join(f"{role} {digest[:16]}" for role, digest in record.inputs.items()) or "no data"
        raise PolicyError(f"{name} was not measured on {absent[0][:16]}", hint=f"it names {told}")
    for key, wanted in requirement.parameters.items():
        if key not in record.procedure:
            raise PolicyError(f"{name} does not say its {key}", hint=f"it says {', '.join(record.procedure)}")
        found = record.procedure[key]
        if isinstance(found, bool) != isinstance(wanted, bool) or found != wanted:
            raise PolicyError(f"{name} was measured with {key} = {found!r}, not {wanted!r}")


def _holds(bound: str, item: Measurement, limit: float) -> bool:
    tests = {
        "high_below": item.high < limit,
        "low_above": item.low > limit,
        "value_below": item.value < limit,
        "value_above": item.value > limit,
        "n_at_least": item.n >= limit,
    }
    return tests[bound]
