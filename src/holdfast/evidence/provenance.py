"""How one thing was made, as SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance): what every lineage step says.

A resource is joined to others by its digests alone; its name is for people. ``role`` says what an input was for
(``data``, ``model``, ``file``, ``code``), and stands in the descriptor's annotations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.lineage import Step
from holdfast.evidence.statement import Statement, Subject

PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
BUILDER = "https://holdfast.dev/builder/v1"
MODEL_ID, CONTENT_ID, COMMITMENT = "holdfastModelId", "holdfastContentId", "holdfastDatasetCommitment"
NOT_IDENTIFYING = frozenset({CONTENT_ID, "gitCommit", "sha1", "md5", "omsRoot"})  # shared by different things
_BUILD = re.compile(r"https://holdfast\.dev/build/([a-z][a-z0-9-]*)/v1")
_HEX = re.compile(r"([0-9a-f]{2})+")
_MAX_INPUTS = 10_000
_STRONG = 64  # hex digits


def build_type(kind: str) -> str:
    """Return the SLSA build type of a Holdfast transform."""
    return f"https://holdfast.dev/build/{kind}/v1"


@dataclass(frozen=True, slots=True)
class Resource:
    """A thing that went in or came out: an in-toto ResourceDescriptor.

    Attributes:
        digest: algorithm -> lower-case hex; empty for what is only named, such as a package version.
        uri: a package URL, or where the thing came from.
        notes: further annotations, JSON.
    """

    name: str
    digest: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    uri: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identities(self) -> frozenset[str]:
        """The digests by which it is joined to other statements; shorter ones than 256 bits may be made to collide."""
        strong = (name for name, value in self.digest.items() if len(value) >= _STRONG)
        return frozenset(self.digest[name] for name in strong if name not in NOT_IDENTIFYING)

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor without empty fields."""
        notes = dict(self.notes) | ({"role": self.role} if self.role else {})
        value = {"name": self.name, "uri": self.uri, "digest": dict(self.digest), "annotations": notes}
        return {key: item for key, item in value.items() if item}

    @classmethod
    def from_json(cls, value: object) -> Resource:
        """Read a descriptor; raise :class:`UnreadableArtifact` when a field is of another type. Others are ignored."""
        if not isinstance(value, dict):
            raise UnreadableArtifact("a resource is a JSON object")
        digest, notes = value.get("digest", {}), value.get("annotations", {})
        texts = [value.get("name", ""), value.get("uri", "")]
        if not all(isinstance(item, str) for item in texts) or not isinstance(notes, dict):
            raise UnreadableArtifact("a resource's name, uri or annotations are malformed")
        if not isinstance(digest, dict) or not all(isinstance(v, str) and _HEX.fullmatch(v) for v in digest.values()):
            raise UnreadableArtifact(f"the resource {texts[0]!r} has a malformed digest")
        if not isinstance(role := notes.get("role", ""), str):
            raise UnreadableArtifact(f"the resource {texts[0]!r} has a malformed role")
        return cls(texts[0], digest, role, texts[1], {key: item for key, item in notes.items() if key != "role"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """One build: its type, what was chosen, what went in, who ran it, and what else came out."""

    build_type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)  # SLSA externalParameters: configuration and seeds
    environment: Mapping[str, Any] = field(default_factory=dict)  # SLSA internalParameters
    inputs: tuple[Resource, ...] = ()  # SLSA resolvedDependencies
    builder: str = BUILDER
    version: Mapping[str, str] = field(default_factory=dict)
    invocation: str = ""
    started: str = ""  # RFC 3339, UTC
    finished: str = ""
    byproducts: tuple[Resource, ...] = ()

    @property
    def kind(self) -> str:
        """``train``, ``quantize``, ... of a Holdfast build type; otherwise the type itself."""
        found = _BUILD.fullmatch(self.build_type)
        return found[1] if found else self.build_type

    def statement(self, *subjects: Subject) -> Statement:
        """Return the statement that ``subjects`` were made this way."""
        return Statement(subjects, PROVENANCE_TYPE, self.to_predicate())

    def to_predicate(self) -> dict[str, Any]:
        """Return the SLSA predicate."""
        metadata = {"invocationId": self.invocation, "startedOn": self.started, "finishedOn": self.finished}
        return {
            "buildDefinition": {
                "buildType": self.build_type,
                "externalParameters": dict(self.parameters),
                "internalParameters": dict(self.environment),
                "resolvedDependencies": [item.to_json() for item in self.inputs],
            },
            "runDetails": {
                "builder": {"id": self.builder, "version": dict(self.version)},
                "metadata": {key: value for key, value in metadata.items() if value},
                "byproducts": [item.to_json() for item in self.byproducts],
            },
        }

    @classmethod
    def from_statement(cls, statement: Statement) -> Provenance:
        """Read the predicate of a statement, ours or another builder's.

        Raises:
            UnsupportedVersion: another predicate type.
            UnreadableArtifact: a field that SLSA requires is missing, or one is of another type.
        """
        if statement.predicate_type != PROVENANCE_TYPE:
            raise UnsupportedVersion(f"{statement.predicate_type} is no {PROVENANCE_TYPE}")
        definition = _object(statement.predicate, "buildDefinition", required=True)
        details = _object(statement.predicate, "runDetails", required=True)
        builder, metadata = _object(details, "builder", required=True), _object(details, "metadata")
        return cls(
            build_type=_text(definition, "buildType", required=True),
            parameters=_object(definition, "externalParameters"),
            environment=_object(definition, "internalParameters"),
            inputs=_resources(definition, "resolvedDependencies"),
            builder=_text(builder, "id", required=True),
            version=_object(builder, "version"),
            invocation=_text(metadata, "invocationId"),
            started=_text(metadata, "startedOn"),
            finished=_text(metadata, "finishedOn"),
            byproducts=_resources(details, "byproducts"),
        )


def of_step(step: Step, known: Mapping[str, Resource] | None = None) -> Provenance:
    """Return the provenance that a model's own lineage step gives.

    Args:
        step: kind, parameters, and a BLAKE3 digest for every role.
        known: digest -> the resource it belongs to, with its name and its other digests.
    """
    found = known or {}
    inputs = []
    for role, digest in sorted(step.inputs.items()):
        more = found.get(digest, Resource(role))
        merged = {**more.digest, "blake3": digest}
        inputs.append(Resource(more.name, merged, role, more.uri, more.notes))
    return Provenance(build_type=build_type(step.kind), parameters=step.parameters, inputs=tuple(inputs))


def _object(value: Mapping[str, Any], name: str, *, required: bool = False) -> dict[str, Any]:
    found = value.get(name, None if required else {})
    if not isinstance(found, dict):
        raise UnreadableArtifact(f"the provenance has no well-formed {name}")
    return found


def _text(value: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    found = value.get(name, "")
    if not isinstance(found, str) or (required and not found):
        raise UnreadableArtifact(f"the provenance has no well-formed {name}")
    return found


def _resources(value: Mapping[str, Any], name: str) -> tuple[Resource, ...]:
    found = value.get(name, [])
    if not isinstance(found, list) or len(found) > _MAX_INPUTS:
        raise UnreadableArtifact(f"the provenance has no well-formed {name}")
    return tuple(Resource.from_json(item) for item in found)
