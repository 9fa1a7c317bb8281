"""The judge of ``[lineage]``: the signed history of a model."""

from __future__ import annotations

from holdfast.errors import DigestMismatch
from holdfast.policy.case import Case
from holdfast.policy.model import LineageRule
from holdfast.policy.records import Found
from holdfast.signing.lineage import VerifiedLineage, survey, verify_lineage

_NO_DATA = ("model", "assessment")  # kinds of things in a history that are no data


def judge_lineage(case: Case, rule: LineageRule) -> Found:
    """Return how far back the history of the model goes."""
    found = lineage_of(case, rule)
    told = f"{len(found.nodes)} things, {len(found.leaves)} to start from"
    if found.gaps:
        told += f", and {len(found.gaps)} gaps, the first at {found.gaps[0].name}"
    return told, ()


def lineage_of(case: Case, rule: LineageRule) -> VerifiedLineage:
    """Return the verified history of the model whose signatures hold.

    Raises:
        VerificationError: it is incomplete, contradicts itself, or holds something revoked.
    """
    identity = case.verified_identity
    walk = verify_lineage if rule.complete else survey
    found = walk(
        case.path,
        case.trust(rule.trust, 1),
        leaves=rule.leaves,
        origins=case.trust(rule.origins, 1) if rule.origins else None,
        statements=case.evidence,
        revoked=lambda digest: _is_revoked(case, digest),
    )
    target = found.node(found.target)
    shared = identity.digests.keys() & target.digest.keys()
    if not shared or any(identity.digests[name] not in target.digest[name] for name in shared):
        raise DigestMismatch("the lineage is of other files than those that were signed")
    return found


def _is_revoked(case: Case, digest: str) -> bool:
    revocations = case.revocations
    if revocations is None:
        return False
    return any(revocations.against(kind, digest, at=case.at) is not None for kind in ("model", "dataset", "bundle"))


def lineage_data(found: VerifiedLineage) -> dict[str, tuple[str, ...]]:
    """Return the digests of everything in a history that is data, or does not say what it is."""
    things = (item for item in found.nodes if item.kind not in _NO_DATA and item.key != found.target)
    return {
        f"{item.name} ({item.key[:24]})": tuple(value for values in item.digest.values() for value in values)
        for item in things
    }
