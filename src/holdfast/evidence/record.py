"""A Record: one observation about one subject, with everything needed to repeat it. A statement in waiting."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.statement import Statement, Subject

RECORD_TYPE = "https://holdfast.dev/record/v1"
_KIND = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured number with its interval: ``low <= value <= high`` from ``n`` observations, in ``unit``."""

    value: float
    low: float
    high: float
    n: int
    unit: str = "1"

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))) or not self.low <= self.value <= self.high:
            raise InvalidConfig(f"{self.value} is not a finite value inside [{self.low}, {self.high}]")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "unit": self.unit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One observation.

    ``kind`` names it (``fault-campaign``, ``bit-errors``, ...); ``measured`` holds numbers with intervals, ``facts``
    everything else worth keeping. ``inputs`` are the digests of datasets, probes and references that went in.
    """

    kind: str
    subject: Subject
    procedure: Mapping[str, Any]  # {"type", "version", every parameter}
    measured: Mapping[str, Measurement]
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    platform: Mapping[str, Any] = field(default_factory=dict)
    lineage: tuple[Mapping[str, Any], ...] = ()
    tool: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.kind):
            raise InvalidConfig(f"a record kind is kebab-case, not {self.kind!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the tagged JSON form."""
        return {
            "type": RECORD_TYPE,
            "kind": self.kind,
            "subject": self.subject.to_json(),
            "inputs": dict(self.inputs),
            "procedure": dict(self.procedure),
            "seed": None if self.seed is None else str(self.seed),
            "platform": dict(self.platform),
            "measured": {name: item.to_json() for name, item in self.measured.items()},
            "facts": dict(self.facts),
            "lineage": list(self.lineage),
            "tool": dict(self.tool),
        }

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.dumps(self.to_json())

    def to_statement(self) -> Statement:
        """Return the in-toto statement that says the same."""
        return Statement((self.subject,), f"{RECORD_TYPE}/{self.kind}", self.to_json())

    @classmethod
    def from_json(cls, value: object) -> Record:
        """Read a record back.

        Raises:
            UnsupportedVersion: an unknown ``type``, named.
            UnreadableArtifact: a missing or extra field, or a malformed measurement.
        """
        if not isinstance(value, dict) or value.get("type") != RECORD_TYPE:
            seen = value.get("type") if isinstance(value, dict) else type(value).__name__
            raise UnsupportedVersion(f"unknown record type {seen!r}", hint=f"this version reads {RECORD_TYPE}")
        fields = {key: item for key, item in value.items() if key != "type"}
        _require_kinds(fields)
        try:
            fields["subject"] = Subject.from_json(fields["subject"])
            fields["measured"] = {name: _measurement(name, item) for name, item in fields["measured"].items()}
            fields["seed"] = None if fields["seed"] is None else int(fields["seed"])
            fields["lineage"] = tuple(fields["lineage"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UnreadableArtifact(f"the record is malformed: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Parse the bytes of a record."""
        return cls.from_json(canonical.loads(data, what="record"))


def _measurement(name: str, item: Mapping[str, Any]) -> Measurement:
    numbers = [item[key] for key in ("value", "low", "high", "n")]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers) or numbers[-1] < 0:
        raise UnreadableArtifact(f"the record is malformed: {name} is measured by {numbers!r:.80}")
    if not isinstance(item.get("unit", "1"), str):
        raise UnreadableArtifact(f"the record is malformed: the unit of {name} is no text")
    return Measurement(**item)


_OBJECTS = ("inputs", "procedure", "platform", "measured", "facts", "tool")
_TEXTS = ("inputs", "tool")  # of which every value is text


def _require_kinds(fields: Mapping[str, Any]) -> None:
    """Refuse fields of another JSON type, which whoever reads the record later would stumble over."""
    for name in _OBJECTS:
        if not isinstance(fields.get(name), dict):
            raise UnreadableArtifact(f"the record is malformed: {name} is no object")
    if not all(isinstance(item, str) for name in _TEXTS for item in fields[name].values()):
        raise UnreadableArtifact("the record is malformed: inputs and tool map text to text")
    lineage, seed = fields.get("lineage"), fields.get("seed")
    if not isinstance(lineage, list) or not all(isinstance(item, dict) for item in lineage):
        raise UnreadableArtifact("the record is malformed: lineage is no list of objects")
    if not (seed is None or (isinstance(seed, str) and seed.isascii())):
        raise UnreadableArtifact("the record is malformed: seed is no text")
