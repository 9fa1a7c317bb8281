"""How a model came to be: the chain of transforms it carries with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import UnreadableArtifact

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Step:
    """One transform: what it was, its parameters, and the digests of what went in."""

    kind: str  # "train", "quantize", "harden", "import"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> BLAKE3 hex of a manifest, dataset or file

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": self.kind, "parameters": dict(self.parameters), "inputs": dict(self.inputs)}

    @classmethod
    def from_json(cls, value: object) -> Step:
        """Read a step back; raise :class:`UnreadableArtifact` when a field is missing."""
        if not isinstance(value, dict) or set(value) != {"kind", "parameters", "inputs"}:
            raise UnreadableArtifact("a lineage step needs exactly kind, parameters and inputs")
        texts = isinstance(value["kind"], str) and isinstance(value["parameters"], dict)
        if not texts or not isinstance(value["inputs"], dict) or not all(map(_is_hex, value["inputs"].values())):
            raise UnreadableArtifact("a lineage step is a kind, parameters, and inputs with a digest each")
        return cls(value["kind"], value["parameters"], value["inputs"])


def outputs_of(steps: Sequence[Step], last: str) -> list[str]:
    """Return the digest that each step gave: what the next one names as its model; ``last`` for the last.

    Empty for a step whose output the next one does not name.
    """
    return [step.inputs.get("model", "") for step in steps[1:]] + [last] if steps else []


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None
