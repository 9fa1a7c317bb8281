"""Verification summaries (SLSA VSA, https://slsa.dev/spec/v1.0/verification_summary): one signed sentence that a model
passed a policy, for those who trust the verifier and do not want to judge again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from holdfast.errors import DigestMismatch, InvalidConfig, PolicyError, SignatureInvalid, UnsupportedVersion
from holdfast.evidence.statement import Statement, Subject
from holdfast.policy.case import Case
from holdfast.policy.model import Policy
from holdfast.policy.read import read_policy
from holdfast.policy.verdict import Judgement
from holdfast.signing import KeyHolder, Threshold, Verified, sign_statement, verify_bundle
from holdfast.signing.editions import CLOCK_SKEW
from holdfast.signing.revocation import bundle_names
from holdfast.signing.times import now, read_time, write_time
from holdfast.signing.trusts import TrustSources, require_threshold

PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
UNEVALUATED = "SLSA_BUILD_LEVEL_UNEVALUATED"


@dataclass(frozen=True)
class Summary:
    """Proof that a trusted verifier said that this model passed this policy.

    Attributes:
        proof: the signed statement, and by whom.
        verified: when the verifier judged.
        levels: the SLSA levels it found.
    """

    proof: Verified
    verified: datetime
    levels: tuple[str, ...]


def sign_summary(judgement: Judgement, signer: KeyHolder, *, at: datetime | None = None, verifier: str = "") -> bytes:
    """Return the bundle that says that the model of ``judgement`` passed its policy.

    Args:
        judgement: of a signed model, with every demand met.
        signer: the verifier's key.
        at: when it was judged; now by default.
        verifier: URI of the verifier; one made of the key's fingerprint by default.

    Raises:
        PolicyError: a demand is not met.
        InvalidConfig: the judgement is not about a signed model, so there is nothing to name.
    """
    if judgement.failures:
        raise PolicyError(f"{len(judgement.failures)} demands are not met, so there is nothing to certify")
    if not judgement.identity:
        raise InvalidConfig("only a signed model can be certified", hint="add a [[model]] table to the policy")
    subject = Subject(judgement.name, dict(judgement.identity))
    uri = verifier or f"urn:holdfast:key:{signer.public.fingerprint}"
    return sign_statement(Statement((subject,), PREDICATE_TYPE, _predicate(judgement, uri, at or now())), signer)


def _predicate(judgement: Judgement, verifier: str, at: datetime) -> dict[str, Any]:
    level = UNEVALUATED if judgement.level is None else f"SLSA_BUILD_LEVEL_{judgement.level}"
    return {
        "verifier": {"id": verifier, "version": {"holdfast": version("holdfast")}},
        "timeVerified": write_time(at),
        "resourceUri": resource_uri(judgement.name),
        "policy": {"uri": f"file:{quote(judgement.policy.name)}", "digest": {"sha256": judgement.policy.digest}},
        "inputAttestations": [
            {"uri": f"file:{quote(name)}", "digest": {"sha256": digest}} for name, digest in judgement.inputs
        ],
        "verificationResult": "PASSED",
        "verifiedLevels": [level],
        "slsaVersion": "1.0",
    }


def resource_uri(name: str) -> str:
    """Return how summaries name the model called ``name``."""
    return f"urn:holdfast:model:{quote(name, safe='')}"


def verify_summary(
    model: Path | str,
    data: bytes,
    trust: TrustSources | Threshold,
    policy: Policy | Path | str,
    *,
    maximum_age: timedelta,
    at: datetime | None = None,
    verifier: str = "",
) -> Summary:
    """Return the summary in the bundle ``data`` if it is about exactly the files of ``model`` and about ``policy``.

    The model's own signatures are not judged again: the verifier did. But what the revocation list of the policy names
    by now, the verifier itself, the model or its signatures, is refused: a list is for what was found out later.

    Args:
        model: folder or file.
        data: the bundle.
        trust: the verifier.
        policy: what it must have passed, byte for byte.
        maximum_age: how long ago it may have been judged.
        at: time of acceptance; now by default.
        verifier: the verifier's URI, if it must be a certain one.

    Raises:
        SignatureInvalid, SignerUntrusted: see :func:`holdfast.signing.verify_bundle`.
        DigestMismatch: it is about other files, or another policy.
        PolicyError: the result is not PASSED, it is too old or of the future, or of another verifier.
    """
    rules = policy if isinstance(policy, Policy) else read_policy(policy)
    case = Case(Path(model), rules, at or now())
    proof = verify_bundle(data, case.checked(trust if isinstance(trust, Threshold) else require_threshold(trust)))
    if proof.statement.predicate_type != PREDICATE_TYPE:
        raise UnsupportedVersion(f"this is a {proof.statement.predicate_type}, not a verification summary")
    predicate = proof.statement.predicate
    if predicate.get("verificationResult") != "PASSED":
        raise PolicyError(f"the verification came out as {predicate.get('verificationResult')!r}")
    if verifier and _object(predicate, "verifier").get("id") != verifier:
        raise PolicyError(f"the summary is of the verifier {_object(predicate, 'verifier').get('id')!r}")
    verified = _require_age(predicate, at or now(), maximum_age)
    _require_policy(predicate, rules)
    _require_model(proof.statement, case)
    case.require_unrevoked([*case.names, *(("bundle", digest) for digest in bundle_names(data))])
    return Summary(proof, verified, _levels(predicate))


def _require_age(predicate: Mapping[str, Any], at: datetime, limit: timedelta) -> datetime:
    verified = read_time(predicate.get("timeVerified"), "timeVerified of the summary")
    if verified > at + CLOCK_SKEW:
        raise PolicyError(f"the summary is of the future, {write_time(verified)}", hint="check the clock")
    if at - verified > limit:
        raise PolicyError(f"the summary is of {write_time(verified)}, older than allowed")
    return verified


def _require_policy(predicate: Mapping[str, Any], rules: Policy) -> None:
    if not rules.digest:
        raise InvalidConfig("a policy that was not read from a file has no digest")
    if _object(_object(predicate, "policy"), "digest") != {"sha256": rules.digest}:
        raise DigestMismatch(f"the summary is about another policy than {rules.name}")


def _require_model(statement: Statement, case: Case) -> None:
    names = [resource_uri(subject.name) for subject in statement.subjects]
    if names != [statement.predicate.get("resourceUri")]:
        raise SignatureInvalid("the summary contradicts itself about what it names")
    if dict(statement.subjects[0].digest) != case.identity.digests:
        raise DigestMismatch(f"the summary is about another model than {case.path}")


def _levels(predicate: Mapping[str, Any]) -> tuple[str, ...]:
    levels = predicate.get("verifiedLevels")
    if not isinstance(levels, list) or not all(isinstance(item, str) for item in levels):
        raise SignatureInvalid("the summary's levels are malformed")
    return tuple(levels)


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise SignatureInvalid(f"the summary has no {name}")
    return found
