"""Vouching for what a lineage starts from: a dataset, or a model that came without a history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import InvalidConfig
from holdfast.evidence.provenance import COMMITMENT, Resource
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.lineage.statements import ORIGIN_TYPE
from holdfast.signing.lineage.stored import identify

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset

KINDS = ("dataset", "model", "file")


def origin(
    subject: Dataset | nn.Module | Path | str | Subject,
    *,
    kind: str,
    uri: str = "",
    licence: str = "",
    digest: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Statement:
    """Return the statement that ``subject`` is fit to start from, for :func:`~holdfast.signing.sign_statement`.

    Args:
        subject: a dataset or model in memory, a model on disk, or a subject.
        kind: ``dataset``, ``model`` or ``file``.
        uri: where it came from.
        licence: SPDX expression.
        digest: further digests of the same thing, such as ``holdfastDatasetCommitment``.
        facts: anything else worth keeping, JSON.

    Raises:
        InvalidConfig: an unknown kind.
    """
    if kind not in KINDS:
        raise InvalidConfig(f"{kind!r} is nothing to start from", hint=f"choose {', '.join(KINDS)}")
    found = subject_of(subject)
    given = {"kind": kind, "uri": uri, "licence": licence, "facts": {**_facts(subject), **(facts or {})}}
    about = Subject(found.name, {**found.digest, **(digest or {})})
    return Statement((about,), ORIGIN_TYPE, {key: value for key, value in given.items() if value})


def subject_of(thing: Dataset | nn.Module | Path | str | Subject) -> Subject:
    """Return the name and digests of a dataset or a model."""
    if isinstance(thing, Subject):
        return thing
    committed = getattr(thing, "commitment", None)  # of what holdfast.verified returned
    digest = {} if committed is None else {COMMITMENT: str(committed.digest)}
    if not isinstance(thing, Path | str) and hasattr(thing, "preprocessing"):
        return Subject(str(thing.name), {"blake3": str(thing.digest), **digest})
    if committed is not None:
        return Subject(str(committed.name), digest)
    return identify(thing)  # type: ignore[arg-type]  # everything but data is a model


def resource_of(thing: Dataset | nn.Module | Path | str | Subject | Resource, role: str) -> Resource:
    """Return ``thing`` as an input of this role."""
    if isinstance(thing, Resource):
        return Resource(thing.name, thing.digest, role, thing.uri, thing.notes)
    found = subject_of(thing)
    return Resource(found.name, found.digest, role, notes=_facts(thing))


def _facts(thing: object) -> dict[str, Any]:
    """Return what is worth knowing of a dataset in memory."""
    if isinstance(thing, Path | str | Subject) or not hasattr(thing, "preprocessing"):
        return {}
    raw = getattr(thing, "raw")  # noqa: B009  only a dataset comes here, and importing it would load torch
    return {"samples": len(raw), "shape": list(raw.shape[1:]), "classes": len(getattr(thing, "classes", ()))}
