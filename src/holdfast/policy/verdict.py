"""Verdicts: what a policy asked, whether the evidence meets it, and what decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from holdfast.policy.model import Policy


class State(StrEnum):
    """How one demand came out."""

    MET = "met"
    NOT_MET = "NOT met"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One demand of a policy, judged.

    Attributes:
        demand: the table, and what tells it from others of its kind.
        state: met, NOT met, or not asked.
        explanation: what decided, in a sentence.
        records: the files of evidence that did.
    """

    demand: str
    state: State
    explanation: str
    records: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "demand": self.demand,
            "state": str(self.state),
            "why": self.explanation,
            "evidence": list(self.records),
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts of ``policy``, none left out; ``identity`` are the digests of the model they are about."""

    policy: Policy
    verdicts: tuple[Verdict, ...]
    name: str = ""
    identity: tuple[tuple[str, str], ...] = ()  # algorithm, digest (hex); empty when no signed model was verified
    inputs: tuple[tuple[str, str], ...] = ()  # files of evidence and their SHA-256 (hex)
    level: int | None = None  # SLSA build level that the provenance proves

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The demands that are not met."""
        return tuple(item for item in self.verdicts if item.state is State.NOT_MET)

    @property
    def met(self) -> tuple[Verdict, ...]:
        """The demands that are met."""
        return tuple(item for item in self.verdicts if item.state is State.MET)
