"""What a fingerprint is worth on inputs it has not seen, beside chance and the baselines that need no learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution import Progress
from holdfast.identification.distribution.examples import Examples
from holdfast.identification.distribution.fingerprint import LogitDistribution
from holdfast.identification.distribution.scores import Score, score
from holdfast.identification.distribution.split import grouped_folds, groups


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures on held-out examples.

    Attributes:
        scores: of the classifier, then of ``majority`` and ``trailing zeros``.
        training: accuracy on the examples learned from: what the published scripts print, and no evidence.
        by: what test and training share none of.
        converged: whether every machine of the classifier did.
        present: classes that were judged.
        learned: classes that the classifier names, present or not.
    """

    scores: tuple[Score, ...]
    training: float
    by: tuple[str, ...]
    size: int
    converged: bool
    present: int
    learned: int

    @property
    def chance(self) -> float:
        """One over the number of classes present: never below one over that of the learned ones."""
        return 1 / self.present

    @property
    def score(self) -> Score:
        """That of the classifier."""
        return self.scores[0]

    @property
    def beats_baselines(self) -> bool:
        """Whether the low end of its accuracy lies above every baseline's and chance; with one class present, never."""
        others = [item.accuracy.value for item in self.scores[1:]]
        return self.score.accuracy.low > max([self.chance, *others])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "scores": [item.to_json() for item in self.scores],
            "chance": self.chance,
            "chance_of": {"present": self.present, "learned": self.learned},
            "training_accuracy": self.training,
            "by": list(self.by),
            "size": self.size,
            "converged": self.converged,
            "beats_baselines": self.beats_baselines,
        }


def evaluate(
    examples: Examples,
    *,
    method: str = "ovo-svm",
    folds: int = 5,
    by: Sequence[str] = ("inputs",),
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Cross-validate: every example is judged by a classifier that saw nothing it shares (see ``grouped_folds``).

    Raises:
        InvalidConfig: fewer groups or classes than that takes.
        VerificationError: leakage, such as outputs that were recorded twice.
    """
    _require_classes(examples)
    places: list[int] = []
    named: dict[str, list[str]] = {}
    training, converged = [], True
    for number, fold in enumerate(grouped_folds(examples, folds=folds, by=by, seed=seed)):
        train, test = examples.take(fold.train), examples.take(fold.test)
        fingerprint = LogitDistribution(method, seed=seed).fit(train)
        for name, labels in _answers(fingerprint, test).items():
            named.setdefault(name, []).extend(labels)
        places.extend(fold.test.tolist())
        training.append(fingerprint.training_)
        converged &= fingerprint.converged
        if progress is not None:
            progress(number + 1, folds)
    learned = len(examples.classes)
    return _evaluation(examples.take(places), named, learned, float(np.mean(training)), by, converged, seed)


def judge(fingerprint: LogitDistribution, examples: Examples, *, by: Sequence[str] = ("inputs",)) -> Evaluation:
    """Score a fingerprint on examples of its classes from anywhere: other inputs, models, runs, machines.

    Raises:
        InvalidConfig: classes it has never seen, or examples that do not fit it.
        VerificationError: leakage: inputs (or what else is in ``by``) of its training, or twins of its examples.
    """
    fingerprint.require_unseen(examples, by=by)
    named = _answers(fingerprint, examples)
    learned = len(fingerprint.labels_)
    return _evaluation(examples, named, learned, fingerprint.training_, by, fingerprint.converged, fingerprint.seed)


def _answers(fingerprint: LogitDistribution, examples: Examples) -> dict[str, list[str]]:
    return {fingerprint.method: fingerprint.predict(examples)} | fingerprint.baselines_.predict(examples)


def _evaluation(
    examples: Examples,
    named: dict[str, list[str]],
    learned: int,
    training: float,
    by: Sequence[str],
    converged: bool,
    seed: int,
) -> Evaluation:
    together = groups(examples, "inputs")
    scores = tuple(score(name, examples.labels, labels, together, seed=seed) for name, labels in named.items())
    present = len(examples.classes)
    return Evaluation(scores, training, tuple(by), examples.size, converged, present, learned)


def _require_classes(examples: Examples) -> None:
    if len(examples.classes) < 2:
        raise InvalidConfig(
            f"there is one class only, {examples.classes[0]}", hint="record another platform, or others than equal ones"
        )
