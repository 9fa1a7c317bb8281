"""HSPI-LD as an estimator: learn platforms from the bits of outputs, name that of others, and keep what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes

from holdfast._files import make_folder, read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.distribution.baselines import Baselines
from holdfast.identification.distribution.classifiers import Learned, Scores, classifiers
from holdfast.identification.distribution.examples import Examples
from holdfast.identification.distribution.split import KEYS, groups, require_keys, require_unseen
from holdfast.seeds import derive

FINGERPRINT_TYPE = "holdfast.fingerprint/v1"


class LogitDistribution:
    """Names the platform of inputs it has never seen, from the bits of their outputs.

    Args:
        method: ``ovo-svm`` or ``mlp``, with options as in ``mlp:hidden=512``.
        seed: of every random choice.

    Attributes:
        labels_: the classes, in the order of scores; kept with the model.
        baselines_: what needs no learning, from the same examples.
        training_: accuracy on the examples learned from, which is no evidence.
        seen_: names of the inputs, runs, machines and models of the training examples, to tell leakage later.
    """

    def __init__(self, method: str = "ovo-svm", *, seed: int = 0) -> None:
        self.method, self.seed = method, seed

    def fit(self, examples: Examples) -> LogitDistribution:
        """Learn from examples.

        Raises:
            InvalidConfig: examples of fewer than two classes, or an unknown method or option.
        """
        if len(examples.classes) < 2:
            raise InvalidConfig(f"one class, {examples.classes[0]}, cannot be told from anything")
        self.labels_, self.size_, self.words_ = examples.classes, examples.size, examples.words
        number = {label: place for place, label in enumerate(self.labels_)}
        targets = np.array([number[label] for label in examples.labels], dtype=np.int64)
        together = groups(examples, "inputs")
        self.learned_: Learned = classifiers.build(self.method).fit(
            examples.bits, targets, together, len(self.labels_), derive(self.seed, "fingerprint")
        )
        self.baselines_ = Baselines.fit(examples)
        self.training_ = float(np.mean([a == b for a, b in zip(self.predict(examples), examples.labels, strict=True)]))
        self.digest_, self.rows_ = examples.digest, frozenset(examples.row_digests)
        self.seen_ = {key: frozenset().union(*examples.sources(key)) for key in KEYS}
        return self

    def scores(self, examples: Examples) -> Scores:
        """Return a score (n, classes) for each of ``labels_``.

        Raises:
            InvalidConfig: not fitted, or examples of another size.
        """
        self._require_fitted()
        if (examples.size, examples.words) != (self.size_, self.words_):
            raise InvalidConfig(
                f"examples of {examples.size} x {examples.words} words do not fit {self.size_} x {self.words_}",
                hint=f"cut them with size={self.size_}; nets need the same number of outputs",
            )
        return classifiers.build(self.method).scores(self.learned_, examples.bits, len(self.labels_))

    def predict(self, examples: Examples) -> list[str]:
        """Return the label of each example."""
        scores = self.scores(examples)
        return [self.labels_[place] for place in scores.argmax(axis=1)]

    @property
    def converged(self) -> bool:
        """Whether every machine reached its optimum; a perceptron has none and always did."""
        return bool(self.learned_["converged"].all()) if "converged" in self.learned_ else True

    def require_unseen(self, examples: Examples, *, by: Sequence[str] = ("inputs",)) -> None:
        """Raise :class:`VerificationError` if ``examples`` share inputs, twins or what else is in ``by`` with training.

        Raises:
            InvalidConfig: examples of classes that were never learned, or something else in ``by`` than inputs, run,
                machine and model.
        """
        self._require_fitted()
        require_keys(by)
        new = sorted(set(examples.labels) - set(self.labels_))
        if new:
            raise InvalidConfig(
                f"the fingerprint has never seen {', '.join(new)}", hint=f"it knows {', '.join(self.labels_)}"
            )
        shared = {key: set(self.seen_[key]) for key in by}
        require_unseen(examples, digest=self.digest_, rows=set(self.rows_), sources=shared)

    def save(self, folder: Path | str) -> None:
        """Write ``fingerprint.safetensors`` and ``fingerprint.json``; the latter binds the former by digest."""
        self._require_fitted()
        data = safetensors_bytes({name: value.contiguous() for name, value in self.learned_.items()})
        place = make_folder(folder)
        write_atomic(place / "fingerprint.safetensors", data)
        value = {
            "type": FINGERPRINT_TYPE,
            "method": self.method,
            "seed": str(self.seed),
            "labels": list(self.labels_),
            "size": self.size_,
            "words": self.words_,
            "learned": digest_bytes(data),
            "baselines": self.baselines_.to_json(),
            "training": {
                "accuracy": self.training_,
                "digest": self.digest_,
                "rows": sorted(self.rows_),
                "seen": {key: sorted(values) for key, values in self.seen_.items()},
            },
        }
        write_atomic(place / "fingerprint.json", canonical.dumps(value))

    @classmethod
    def load(cls, folder: Path | str) -> LogitDistribution:
        """Read a fingerprint back.

        Raises:
            UnsupportedVersion: not a fingerprint of this version.
            DigestMismatch: the tensors are not those the description was written for.
            UnreadableArtifact: a part is missing or malformed.
        """
        place = Path(folder)
        value = canonical.loads(read_bytes(place / "fingerprint.json", "fingerprint"), what="fingerprint.json")
        if not isinstance(value, dict) or value.get("type") != FINGERPRINT_TYPE:
            raise UnsupportedVersion(f"{folder} holds no {FINGERPRINT_TYPE}")
        data = read_bytes(place / "fingerprint.safetensors", "learned tensors")
        if digest_bytes(data) != value.get("learned"):
            raise DigestMismatch(f"fingerprint.safetensors in {folder} differs from its digest in fingerprint.json")
        try:
            return _rebuilt(value, parse_safetensors(data))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UnreadableArtifact(f"{folder} holds no readable fingerprint: {error}") from error

    def _require_fitted(self) -> None:
        if not hasattr(self, "labels_"):
            raise InvalidConfig("the fingerprint has learned nothing yet", hint="call fit first")


def _rebuilt(value: dict[str, Any], learned: Learned) -> LogitDistribution:
    found = LogitDistribution(str(value["method"]), seed=int(value["seed"]))
    found.labels_ = tuple(map(str, value["labels"]))
    found.size_, found.words_ = int(value["size"]), int(value["words"])
    found.learned_ = learned
    found.baselines_ = Baselines.from_json(value["baselines"])
    training = value["training"]
    found.training_ = float(training["accuracy"])
    found.digest_, found.rows_ = str(training["digest"]), frozenset(training["rows"])
    found.seen_ = {key: frozenset(training["seen"][key]) for key in KEYS}
    return found
