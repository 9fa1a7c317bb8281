"""What a learned classifier has to beat: the commonest class, and two looks at trailing zeros.

An fp16 output written as float32 ends in 13 zeros, a bf16 one in 16: whoever asks for them tells these formats from all
others without having learned anything about platforms. Counting the zeros of every word goes further: products of
numbers of few bits, summed in float32 as emulations do, end in zeros as well. Figures of a classifier mean something
beside these only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.errors import UnreadableArtifact
from holdfast.identification.distribution.examples import Examples
from holdfast.identification.distribution.features import trailing_zeros

Counts = npt.NDArray[np.int64]
_KINDS = ("bf16-like", "fp16-like", "full")
_MOST = 32  # zeros of a word


@dataclass(frozen=True, slots=True)
class Baselines:
    """Learned from training examples, as a classifier is.

    Attributes:
        majority: the commonest label.
        by_zeros: the commonest label among examples whose words all end in >= 16 zeros, >= 13, or fewer.
        counts: for each label, how many words end in 0 .. 32 zeros.
    """

    majority: str
    by_zeros: Mapping[str, str]
    counts: Mapping[str, tuple[int, ...]]

    @classmethod
    def fit(cls, examples: Examples) -> Baselines:
        """Count labels and zeros; ties go to the first in alphabetical order."""
        zeros = trailing_zeros(examples.bits)
        kinds = _kinds(zeros)
        majority = _commonest(examples.labels)
        among = {
            kind: [label for label, found in zip(examples.labels, kinds, strict=True) if found == kind]
            for kind in _KINDS
        }
        labels = np.array(examples.labels)
        return cls(
            majority,
            {kind: _commonest(found) if found else majority for kind, found in among.items()},
            {label: tuple(_histogram(zeros[labels == label])) for label in examples.classes},
        )

    def predict(self, examples: Examples) -> dict[str, list[str]]:
        """Return the labels of each baseline by its name.

        ``zero counts`` names the label under which the counts of an example are likeliest, words taken as independent.
        """
        zeros = trailing_zeros(examples.bits)
        return {
            "majority": [self.majority] * len(examples),
            "trailing zeros": [self.by_zeros[kind] for kind in _kinds(zeros)],
            "zero counts": self._likeliest(zeros),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        counts = {label: list(row) for label, row in self.counts.items()}
        return {"majority": self.majority, "by_zeros": dict(self.by_zeros), "counts": counts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Baselines:
        """Read the JSON form back.

        Raises:
            UnreadableArtifact: a kind of words, or a count, is missing.
        """
        table = {str(kind): str(label) for kind, label in value["by_zeros"].items()}
        counts = {str(label): tuple(map(int, row)) for label, row in value["counts"].items()}
        if set(table) != set(_KINDS) or not counts or any(len(row) != _MOST + 1 for row in counts.values()):
            raise UnreadableArtifact(f"the baselines do not name {', '.join(_KINDS)} and counts of 0 .. {_MOST} zeros")
        return cls(str(value["majority"]), table, counts)

    def _likeliest(self, zeros: Counts) -> list[str]:
        labels = sorted(self.counts)
        seen = np.array([self.counts[label] for label in labels]) + 0.5
        scores = np.log(seen / seen.sum(axis=1, keepdims=True))[:, zeros].sum(axis=2)
        return [labels[place] for place in scores.argmax(axis=0)]


def _kinds(zeros: Counts) -> list[str]:
    return [_KINDS[0] if least >= 16 else _KINDS[1] if least >= 13 else _KINDS[2] for least in zeros.min(axis=1)]


def _histogram(zeros: Counts) -> list[int]:
    return [int(count) for count in np.bincount(zeros.ravel(), minlength=_MOST + 1)]


def _commonest(labels: Sequence[str]) -> str:
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
