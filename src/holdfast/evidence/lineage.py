"""How a model came to be: the chain of transforms it carries with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import UnreadableArtifact


@dataclass(frozen=True, slots=True)
class Step:
    """One transform: what it was, its parameters, and the digests of what went in."""

    kind: str  # "train", "quantize", "harden", "import"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)  # role -> BLAKE3 hex of a manifest or dataset

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"kind": self.kind, "parameters": dict(self.parameters), "inputs": dict(self.inputs)}

    @classmethod
    def from_json(cls, value: object) -> Step:
        """Read a step back; raise :class:`UnreadableArtifact` when a field is missing."""
        if not isinstance(value, dict) or set(value) != {"kind", "parameters", "inputs"}:
            raise UnreadableArtifact("a lineage step needs exactly kind, parameters and inputs")
        return cls(value["kind"], value["parameters"], value["inputs"])
