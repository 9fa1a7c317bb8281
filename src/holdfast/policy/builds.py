"""The judges of how a model was built: SLSA provenance (https://slsa.dev/provenance/v1), and the data it names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.errors import PolicyError, SignerUntrusted, UnreadableArtifact
from holdfast.policy.bundles import Bundle
from holdfast.policy.case import Case
from holdfast.policy.history import lineage_data, lineage_of
from holdfast.policy.model import DatasetsRule, ProvenanceRule
from holdfast.policy.records import Found
from holdfast.signing import Verified
from holdfast.signing.datasets import COMMITMENT_TYPE
from holdfast.signing.lineage import ORIGIN_TYPE

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
_HEX = re.compile(r"([0-9a-f]{2})+")
_VOUCHING = (ORIGIN_TYPE, COMMITMENT_TYPE)
_OTHER_ROLES = ("model", "base", "file", "code", "config", "container", "package")  # all others may be data


def judge_provenance(case: Case, rule: ProvenanceRule) -> Found:
    """Return which builder built the model, and at which level the policy believes it to be.

    Raises:
        PolicyError: no trusted provenance is about this model, or one names a builder that is unknown or too low.
    """
    found = provenance(case, rule)
    told = [_judge_builder(item, proof, rule) for item, proof in found]
    return "; ".join(told), tuple(item.path.name for item, _ in found)


def provenance(case: Case, rule: ProvenanceRule) -> list[tuple[Bundle, Verified]]:
    """Return all trusted provenance of the model; there must be some."""
    found = list(case.about_model(PROVENANCE_TYPE, case.trust(rule.trust, 1)))
    if not found:
        raise PolicyError("no trusted provenance is about this model", hint="--evidence FOLDER names bundles")
    return found


def slsa_level(case: Case, rule: ProvenanceRule) -> int:
    """Return the lowest level that the policy gives to any builder of the model."""
    return min(rule.builders.get(_builder(proof), 0) for _, proof in provenance(case, rule))


def _judge_builder(bundle: Bundle, proof: Verified, rule: ProvenanceRule) -> str:
    builder = _builder(proof)
    if builder not in rule.builders:
        raise PolicyError(f"{bundle.path.name} is of the builder {builder}, of which the policy says nothing")
    level = rule.builders[builder]
    if level < rule.slsa_level:
        raise PolicyError(f"{bundle.path.name}: {builder} is at SLSA level {level}, below {rule.slsa_level}")
    return f"{bundle.path.name}: built by {builder}, level {level}"


def _builder(proof: Verified) -> str:
    builder = _object(_object(proof.statement.predicate, "runDetails"), "builder").get("id")
    if not isinstance(builder, str) or not builder:
        raise UnreadableArtifact("the provenance names no builder")
    return builder


def judge_datasets(case: Case, rule: DatasetsRule) -> Found:
    """Return that the data in all trusted provenance, and in the lineage, is what the policy admits."""
    found: list[tuple[str, dict[str, tuple[str, ...]]]] = []
    if case.policy.provenance is not None:
        built = provenance(case, case.policy.provenance)
        found += [(bundle.path.name, dict(_data(proof))) for bundle, proof in built]
    if case.policy.lineage is not None:
        found.append(("the lineage", lineage_data(lineage_of(case, case.policy.lineage))))
    if not found:
        raise PolicyError("no table asks for provenance or lineage")
    return "; ".join(_judge_data(case, *item, rule) for item in found), tuple(name for name, _ in found)


def _judge_data(case: Case, source: str, data: Mapping[str, tuple[str, ...]], rule: DatasetsRule) -> str:
    digests = {digest for values in data.values() for digest in values}
    if missing := [digest[:16] for digest in rule.require if digest not in digests]:
        raise PolicyError(f"{source} does not name the required {', '.join(missing)}")
    for name, values in data.items():
        if not values:
            raise PolicyError(f"{source} names {name} without a digest, so nothing tells which data it is")
        if denied := set(values) & set(rule.deny):
            raise PolicyError(f"{source} names {name}, the denied {denied.pop()[:16]}")
        if rule.allow is not None and not set(values) & set(rule.allow):
            raise PolicyError(f"{source} names {name}, which is not allowed")
        _require_unrevoked(case, name, values)
        if rule.signer:
            _require_vouched(case, f"{source} names {name}, which", values, rule)
    return f"{source} names {len(data)} datasets, all admitted"


def _require_vouched(case: Case, what: str, values: tuple[str, ...], rule: DatasetsRule) -> None:
    """Return if a statement of origin, or a commitment, by one of the rule's signers is about the data."""
    trust = case.trust(rule.signer, 1)
    for bundle in case.bundles:
        named = {digest for subject in bundle.claimed.subjects for digest in subject.digest.values()}
        about = bundle.claimed.predicate_type in _VOUCHING and named & set(values)
        if about and case.verify_evidence(bundle, trust) is not None:
            return
    raise PolicyError(f"{what} nobody trusted vouches for")


def _require_unrevoked(case: Case, name: str, values: Iterable[str]) -> None:
    for digest in values:
        if case.revocations is not None and (entry := case.revocations.against("dataset", digest, at=case.at)):
            raise SignerUntrusted(f"the dataset {name} is revoked ({entry.reason})")


def _data(proof: Verified) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield (name, digests) of every input that is data, or that does not say what it is."""
    inputs = _object(proof.statement.predicate, "buildDefinition").get("resolvedDependencies", [])
    if not isinstance(inputs, list):
        raise UnreadableArtifact("the provenance's inputs are malformed")
    for place, item in enumerate(inputs):
        if not isinstance(item, dict) or not isinstance(item.get("digest", {}), dict):
            raise UnreadableArtifact("the provenance's inputs are malformed")
        notes, values = item.get("annotations") or {}, tuple(item.get("digest", {}).values())
        name = item.get("name") or item.get("uri") or "input"
        if not all(isinstance(value, str) and _HEX.fullmatch(value) for value in values):
            raise UnreadableArtifact(f"the digest of {name} is not lower-case hex")  # else none would ever be denied
        role = notes.get("role") if isinstance(notes, dict) else None
        software = role is None and not values and str(item.get("uri", "")).startswith("pkg:")
        if role not in _OTHER_ROLES and not software:
            yield f"{name} ({place + 1})", values


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise UnreadableArtifact(f"the provenance has no {name}")
    return found
