"""What a learned classifier has to beat: the commonest class, and a look at trailing zeros.

An fp16 output written as float32 ends in 13 zeros, a bf16 one in 16: whoever counts them tells these formats from all
others without having learned anything about platforms. Figures of a classifier mean something beside these only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import UnreadableArtifact
from holdfast.identification.distribution.examples import Examples
from holdfast.identification.distribution.features import trailing_zeros

_KINDS = ("bf16-like", "fp16-like", "full")


@dataclass(frozen=True, slots=True)
class Baselines:
    """Learned from training examples, as a classifier is.

    Attributes:
        majority: the commonest label.
        by_zeros: the commonest label among examples whose words all end in >= 16 zeros, >= 13, or fewer.
    """

    majority: str
    by_zeros: Mapping[str, str]

    @classmethod
    def fit(cls, examples: Examples) -> Baselines:
        """Count labels; ties go to the first in alphabetical order."""
        kinds = _kinds(examples)
        majority = _commonest(examples.labels)
        among = {
            kind: [label for label, found in zip(examples.labels, kinds, strict=True) if found == kind]
            for kind in _KINDS
        }
        return cls(majority, {kind: _commonest(labels) if labels else majority for kind, labels in among.items()})

    def predict(self, examples: Examples) -> dict[str, list[str]]:
        """Return the labels of each baseline by its name."""
        return {
            "majority": [self.majority] * len(examples),
            "trailing zeros": [self.by_zeros[kind] for kind in _kinds(examples)],
        }

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"majority": self.majority, "by_zeros": dict(self.by_zeros)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Baselines:
        """Read the JSON form back.

        Raises:
            UnreadableArtifact: a kind of words is missing.
        """
        table = {str(kind): str(label) for kind, label in value["by_zeros"].items()}
        if set(table) != set(_KINDS):
            raise UnreadableArtifact(f"the baselines name {', '.join(table)}, not {', '.join(_KINDS)}")
        return cls(str(value["majority"]), table)


def _kinds(examples: Examples) -> list[str]:
    zeros = trailing_zeros(examples.bits)
    return [_KINDS[0] if count >= 16 else _KINDS[1] if count >= 13 else _KINDS[2] for count in zeros]


def _commonest(labels: Sequence[str]) -> str:
    counts = Counter(sorted(labels))
    return max(counts, key=lambda label: (counts[label], [-ord(letter) for letter in label]))
