"""Naming a platform from labels alone, as published: each border input is a vote between its two platforms.

HSPI's one-vs-one identifier and its transferability, with their faults mended: a tie is no answer (theirs went to
whoever stood first in the list), votes are counted per name and not per place, and chance is 1 / platforms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.identification.border.inputs import BorderInput
from holdfast.identification.identifier import UNKNOWN


@dataclass(frozen=True)
class Votes:
    """The answer and what led to it.

    Attributes:
        platform: the name with most votes, or ``unknown`` where there is none or a tie.
        votes: votes by platform.
        dropped: inputs whose label was that of neither platform.
    """

    platform: str
    votes: dict[str, int]
    dropped: int


def vote(inputs: Sequence[BorderInput], labels: Sequence[int]) -> Votes:
    """Name the platform that gave ``labels``, one for each input.

    Raises:
        InvalidConfig: another number of labels than of inputs.
    """
    if len(inputs) != len(labels):
        raise InvalidConfig(f"{len(labels)} labels do not fit {len(inputs)} border inputs")
    counted = Counter[str]()
    dropped = 0
    for item, label in zip(inputs, labels, strict=True):
        named = [name for name in item.pair if item.labels[name] == label]
        counted.update(named)
        dropped += not named
    best = counted.most_common(2)
    clear = bool(best) and (len(best) == 1 or best[0][1] > best[1][1])
    return Votes(best[0][0] if clear else UNKNOWN, dict(sorted(counted.items())), dropped)


@dataclass(frozen=True)
class Transfer:
    """How well border inputs made on one model name the platform of others.

    Attributes:
        truth: platform of each answer that was judged, as ``model/platform``.
        predicted: what the votes said.
    """

    truth: tuple[tuple[str, str], ...]
    predicted: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Share of answers that were named right: the published transferability ratio."""
        return sum(platform == said for (_, platform), said in zip(self.truth, self.predicted, strict=True)) / len(
            self.truth
        )

    def to_json(self) -> dict[str, Any]:
        """Return the published keys of ``transferability.yaml``, and chance beside them; JSON is YAML too."""
        from sklearn.metrics import classification_report, matthews_corrcoef

        platforms = [platform for _, platform in self.truth]
        names = sorted(set(platforms))
        report = classification_report(
            platforms, list(self.predicted), labels=names, output_dict=True, zero_division=0.0
        )
        return {
            "overall_accuracy": self.ratio,
            "by_class_acc": {name: self._share(1, name) for name in names},
            "by_model_accuracy": {name: self._share(0, name) for name in sorted({model for model, _ in self.truth})},
            "matthews_corr": float(matthews_corrcoef(platforms, list(self.predicted))),
            "classification_report": _plain(report),
            "chance": 1 / len(names),
        }

    def _share(self, place: int, name: str) -> float:
        hits = [item[1] == said for item, said in zip(self.truth, self.predicted, strict=True) if item[place] == name]
        return sum(hits) / len(hits)


def transfer(inputs: Sequence[BorderInput], answers: Mapping[tuple[str, str], Sequence[int]]) -> Transfer:
    """Judge border inputs on other models.

    Args:
        inputs: made on some model.
        answers: labels of each input, by (model, platform) that gave them.

    Raises:
        InvalidConfig: no answers.
    """
    if not answers or not inputs:
        raise InvalidConfig("transfer is judged on the answers of other models, and on border inputs")
    predicted = tuple(vote(inputs, labels).platform for labels in answers.values())
    return Transfer(tuple(answers), predicted)


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else float(value)
