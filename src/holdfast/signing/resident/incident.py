"""What is written down when a resident weight is not what was signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import Subject

KIND = "integrity-incident"


@dataclass(frozen=True, slots=True)
class Incident:
    """One tensor found changed.

    Attributes:
        tensor: its name.
        expected, found: BLAKE3 (hex) as signed, and as seen in memory.
        ranges: (start, stop) bytes of the tensor that differ; empty where there was nothing good to compare with.
        bits: how many bits differ in them.
        latency: seconds since the tensor was last seen whole, or since the audit began: no flip is older.
        repaired: whether the ranges hold the signed bytes again.
    """

    tensor: str
    expected: str
    found: str
    ranges: tuple[tuple[int, int], ...]
    bits: int
    latency: float
    repaired: bool

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        names = ("tensor", "expected", "found", "bits", "repaired")
        return {name: getattr(self, name) for name in names} | {"ranges": [list(item) for item in self.ranges]}

    def to_record(self, subject: Subject, procedure: Mapping[str, Any], tool: Mapping[str, str]) -> Record:
        """Return the record to sign: ``detection-latency`` is known only up to the time since the last good look."""
        latency = Measurement(self.latency, 0.0, self.latency, 1, "s")
        return Record(
            kind=KIND,
            subject=subject,
            procedure=procedure,
            measured={"detection-latency": latency},
            facts=self.to_json(),
            tool=tool,
        )
