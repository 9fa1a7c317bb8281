"""Judging a model or an assessment by a policy: every demand gets its verdict, and none stops the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, PolicyError
from holdfast.policy.builds import judge_datasets, judge_provenance, slsa_level
from holdfast.policy.case import Case, fits
from holdfast.policy.history import judge_lineage
from holdfast.policy.model import Policy, Requirement
from holdfast.policy.models import (
    judge_base,
    judge_files,
    judge_keys,
    judge_model,
    judge_revocation,
    judge_rollback,
    model_mark,
)
from holdfast.policy.read import SINGLE, read_policy
from holdfast.policy.records import Found, judge_passport, judge_requirement
from holdfast.policy.verdict import Judgement, State, Verdict
from holdfast.signing.times import now

_JUDGES: dict[str, Callable[[Case, Any], Found]] = {
    "revocation": lambda case, rule: judge_revocation(case),
    "keys": lambda case, rule: judge_keys(case),
    "passport": lambda case, rule: judge_passport(case),
    "rollback": judge_rollback,
    "files": judge_files,
    "base": judge_base,
    "provenance": judge_provenance,
    "datasets": judge_datasets,
    "lineage": judge_lineage,
}


def check(
    folder: Path | str,
    policy: Policy | Path | str,
    *,
    evidence: tuple[Path | str, ...] = (),
    at: datetime | None = None,
) -> list[Verdict]:
    """Return the verdict on every demand of ``policy``, all of which are met, or raise.

    Args:
        folder: an assessment folder with its passport, or a signed model.
        policy: the policy, or its file.
        evidence: further bundles and passports: files, or folders that hold them.
        at: judge as of this time; now by default.

    Raises:
        PolicyError: demands that are not met; the message names each, and what failed it.
        InvalidConfig: the policy itself is not understood.
    """
    judgement = judge(folder, policy, evidence=evidence, at=at)
    if judgement.failures:
        lines = [f"{item.demand}: {item.explanation}" for item in judgement.failures]
        raise PolicyError("; ".join(lines), hint="holdfast check --explain shows every verdict")
    return list(judgement.met)


def judge(
    folder: Path | str,
    policy: Policy | Path | str,
    *,
    evidence: tuple[Path | str, ...] = (),
    at: datetime | None = None,
) -> Judgement:
    """Return the verdict on every demand of ``policy``, met or not; only the policy itself can raise.

    When the policy names a local memory of versions, a current revocation list and key set are remembered as soon as
    they verify, and the model's version only if every demand is met.

    Raises:
        InvalidConfig: the policy is not understood.
        UnreadableArtifact: there is no policy there.
    """
    rules = policy if isinstance(policy, Policy) else read_policy(policy)
    case = Case(Path(folder), rules, at or now(), tuple(map(Path, evidence)))
    verdicts = [*_single(case), *_models(case), *_requirements(case)]
    judgement = Judgement(rules, tuple(verdicts))
    memory = _remember(case, not judgement.failures)
    verdicts += [] if memory is None else [memory]
    return Judgement(rules, tuple(verdicts), **_about(case, verdicts))


def _single(case: Case) -> Iterator[Verdict]:
    for name in SINGLE:
        rule = getattr(case.policy, name)
        if rule is None:
            yield Verdict(f"[{name}]", State.NOT_ASKED, "the policy has no such table")
        else:
            yield _verdict(f"[{name}]", _JUDGES[name], case, rule)


def _models(case: Case) -> Iterator[Verdict]:
    if not case.policy.model:
        yield Verdict("[[model]]", State.NOT_ASKED, "the policy has no such table")
        return
    try:
        name = case.claimed_name
    except HoldfastError as error:
        yield _failure("[[model]]", error)
        return
    fitting = [rule for rule in case.policy.model if fits(name, rule.match)]
    if not fitting:
        yield Verdict("[[model]]", State.NOT_MET, f"no table says who may sign {name!r}")
    for rule in case.policy.model:
        demand = f"[[model]] {rule.match}"
        if rule in fitting:
            yield _verdict(demand, judge_model, case, rule)
        else:
            yield Verdict(demand, State.NOT_ASKED, f"{name!r} does not fit")


def _requirements(case: Case) -> Iterator[Verdict]:
    if not case.policy.require:
        yield Verdict("[[require]]", State.NOT_ASKED, "the policy has no such table")
    elif case.is_assessment and case.policy.passport is None:
        yield from _whole_passport(case)
    for item in case.policy.require:
        yield _verdict(_demand(item), judge_requirement, case, item)


def _whole_passport(case: Case) -> Iterator[Verdict]:
    """Say that nobody vouches for a passport that only its own key verifies."""
    try:
        told, records = judge_passport(case)
    except HoldfastError as error:
        yield _failure("passport", error)
    else:
        yield Verdict("passport", State.NOT_ASKED, told, records)


def _demand(item: Requirement) -> str:
    return f"[[require]] {item.kind}" + (f" {item.measure}" if item.measure else "")


def _verdict(demand: str, judge_it: Callable[[Case, Any], Found], case: Case, rule: Any) -> Verdict:
    try:
        told, records = judge_it(case, rule)
    except HoldfastError as error:
        return _failure(demand, error)
    except OSError as error:
        return Verdict(demand, State.NOT_MET, f"{error.filename or 'the system'}: {error.strerror or error}")
    return Verdict(demand, State.MET, told, records)


def _failure(demand: str, error: HoldfastError) -> Verdict:
    return Verdict(demand, State.NOT_MET, str(error) + (f" ({error.hint})" if error.hint else ""))


def _remember(case: Case, accepted: bool) -> Verdict | None:
    """Raise the marks; return a verdict only if that failed, for then the next rollback would pass."""
    if case.marks is None:
        return None
    found = []
    try:
        if case.policy.revocation is not None and (revocations := _or_none(lambda: case.revocations)) is not None:
            found.append(revocations.mark)
        if case.policy.keys is not None and (keys := _or_none(lambda: case.key_set)) is not None:
            found.append(keys.keys.mark)
        if accepted:
            found.append(model_mark(case))
        if found:
            case.marks.remember(*found)
    except HoldfastError as error:
        return _failure("[rollback] remember", error)
    return None


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except HoldfastError:  # its own verdict says so
        return None


def _about(case: Case, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return what a summary of a judgement without failures says of the model; nothing of one with failures."""
    if any(item.state is State.NOT_MET for item in verdicts):
        return {}
    inputs = tuple(sorted(case.used))
    if case.is_assessment or not (case.policy.model or case.policy.keys):
        return {"inputs": inputs, "name": case.path.resolve().name}
    rule = case.policy.provenance
    return {
        "name": case.claimed_name,
        "identity": tuple(case.verified_identity.digests.items()),
        "inputs": inputs,
        "level": None if rule is None else slsa_level(case, rule),
    }
