"""in-toto Statements: the one sentence form of all evidence, *about these subjects, this predicate holds*."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Subject:
    """A named thing and its digests by algorithm (``sha256``, ``blake3``), lower-case hex."""

    name: str
    digest: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the in-toto ResourceDescriptor."""
        return {"name": self.name, "digest": dict(self.digest)}

    @classmethod
    def from_json(cls, value: object) -> Subject:
        """Read a ResourceDescriptor; digests must be 64 lower-case hex digits."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise UnreadableArtifact("a subject needs a name and digests")
        digest = value.get("digest")
        if not isinstance(digest, dict) or not digest or not all(_is_hex(item) for item in digest.values()):
            raise UnreadableArtifact(f"the subject {value['name']!r} has no well-formed digest")
        return cls(value["name"], digest)


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


@dataclass(frozen=True, slots=True)
class Statement:
    """An in-toto Statement v1."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """Return the canonical payload bytes."""
        return canonical.dumps(
            {
                "_type": STATEMENT_TYPE,
                "subject": [subject.to_json() for subject in self.subjects],
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Statement:
        """Parse a payload.

        Raises:
            UnsupportedVersion: the ``_type`` is not Statement v1.
            UnreadableArtifact: a field is missing, a digest malformed, or two subjects share a name.
        """
        value = canonical.loads(data, what="statement")
        if not isinstance(value, dict) or value.get("_type") != STATEMENT_TYPE:
            raise UnsupportedVersion("this is not an in-toto Statement v1")
        if not isinstance(value.get("subject"), list) or not value["subject"]:
            raise UnreadableArtifact("the statement has no subject")
        if not isinstance(value.get("predicateType"), str) or not isinstance(value.get("predicate"), dict):
            raise UnreadableArtifact("the statement has no predicate")
        subjects = tuple(Subject.from_json(item) for item in value["subject"])
        if len({subject.name for subject in subjects}) != len(subjects):
            raise UnreadableArtifact("the statement names a subject twice")
        return cls(subjects, value["predicateType"], value["predicate"])
