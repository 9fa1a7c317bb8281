"""The judges of what a signed model is: who signed it, which version it is, what lies in it, and what stands against
it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from holdfast.errors import PolicyError
from holdfast.evidence.beside import default_manifest
from holdfast.policy.case import Case
from holdfast.policy.contents import FORMATS, formats_of
from holdfast.policy.model import BaseRule, FilesRule, ModelRule, RollbackRule
from holdfast.policy.records import Found
from holdfast.signing import Verified
from holdfast.signing.marks import Mark
from holdfast.signing.times import write_time


def judge_model(case: Case, rule: ModelRule) -> Found:
    """Return who signed the model, all of whose signatures must satisfy the rule."""
    proofs = case.verify_signatures(case.trust(rule.trust, rule.threshold))
    found = "; ".join(f"{name} by {_signers(proof)}" for name, proof in proofs.items())
    if rule.maximum_age is not None:
        oldest = min(_age_from(proofs.items(), case.at, rule.maximum_age))
        found += f"; the oldest signature is of {write_time(oldest)}"
    if case.unsigned:
        found += f"; left unsigned: {', '.join(case.unsigned[:5])}"
    return f"{case.claimed_name!r}, {len(case.identity.files)} files: {found}", tuple(proofs)


def _signers(proof: Verified) -> str:
    return ", ".join(signer.name[:40] for signer in proof.signers)


def _age_from(proofs: Iterable[tuple[str, Verified]], at: datetime, limit: timedelta) -> Iterable[datetime]:
    """Yield when each signature was made, as a timestamp or a log proves it."""
    for name, proof in proofs:
        for signer in proof.signers:
            if signer.time is None:
                raise PolicyError(
                    f"nothing proves when {signer.name[:40]} signed {name}",
                    hint="maximum_age needs a timestamp or a transparency log; a signer's own word is none",
                )
            if at - signer.time > limit:
                raise PolicyError(f"{name} was signed {write_time(signer.time.replace(microsecond=0))}, too long ago")
            yield signer.time.replace(microsecond=0)


def judge_keys(case: Case) -> Found:
    """Return which key of the key set signed the model."""
    keys = case.key_set.keys
    proofs = case.verify_signatures(case.checked(case.key_set))
    found = "; ".join(f"{name} by {_signers(proof)}" for name, proof in proofs.items())
    return f"key set {keys.name!r} version {keys.edition.version}: {found}", tuple(proofs)


def judge_rollback(case: Case, rule: RollbackRule) -> Found:
    """Return that the model is no older version than the policy and this machine's memory admit."""
    name, mark = model_mark(case)
    if rule.minimum_version is not None and mark.version < rule.minimum_version:
        raise PolicyError(f"{name} has version {mark.version}, and the policy asks for {rule.minimum_version} or later")
    told = f"version {mark.version}"
    if case.marks is not None:
        told = case.marks.require_no_older(name, mark)
    return told, tuple(case.signatures)


def model_mark(case: Case) -> tuple[str, Mark]:
    """Return what to remember of a verified model: its signed name and version, and the digest of its files."""
    manifest = case.manifest
    return f"model:{manifest.name}", Mark(manifest.version, case.verified_identity.model_id)


def judge_files(case: Case, rule: FilesRule) -> Found:
    """Return that no file is of a forbidden format or name; files that no signature covers count as well."""
    names = sorted(case.every_file)
    formats = [item for item in rule.forbid if item in FORMATS]
    patterns = [item for item in rule.forbid if item not in FORMATS]
    bad = [f"{name} fits {item}" for name in names for item in patterns if _fits_path(name, item)]
    for name in names:
        found = formats_of(case.every_file[name], name) if formats else {}
        bad += [f"{item}: {found[item]}" for item in formats if item in found]
    if bad:
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise PolicyError("; ".join(bad[:5]) + more)
    return f"{len(names)} files, none of them {' or '.join(rule.forbid)}", ()


def _fits_path(name: str, pattern: str) -> bool:
    """Return whether a path or its last part fits, in any case: a file system may not tell cases apart."""
    low, shape = name.lower(), pattern.lower()
    return fnmatchcase(low, shape) or fnmatchcase(low.rpartition("/")[2], shape)


def judge_base(case: Case, rule: BaseRule) -> Found:
    """Return that the signed manifest names an allowed base model."""
    base = case.manifest.base
    if (base or "none") not in rule.allow:
        raise PolicyError(f"the manifest names {f'the base {base[:16]}' if base else 'no base'}, which is not allowed")
    return f"the base is {base[:16]}" if base else "the manifest names no base", tuple(case.signatures)


def judge_revocation(case: Case) -> Found:
    """Return that the list is current and names nothing of the model, its signatures, its base and its data.

    Revoked keys and certificates are refused wherever a signature is judged.
    """
    revocations = case.revocations
    if revocations is None:
        raise PolicyError("the policy names no revocation list")
    looked = [] if case.is_assessment else list(_verified_names(case))
    case.require_unrevoked(looked)
    edition = revocations.edition
    return (
        f"list {revocations.name!r} version {edition.version}, valid until {write_time(edition.expires)}: "
        f"{len(revocations.entries)} entries, none on the {len(looked)} things looked up"
    ), (str(case.policy.revocation.list if case.policy.revocation else ""),)


def _verified_names(case: Case) -> Iterable[tuple[str, str]]:
    if case.verified_identity and default_manifest(case.path).name in case.signatures:
        yield from (("model", digest) for digest in (case.manifest.model_id, case.manifest.base) if digest)
    yield from case.names
