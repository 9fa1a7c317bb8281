"""Reference matching with likelihoods: how far each word is from each class, and what such distances mean.

Within a probe the words stand or fall together, so the unit of evidence is a probe. Its words are put into bins of
distance (equal, 1, 2-3, 4-7, ... units in the last place); the law of the bins is learned from the references: a
platform against itself repeats every bit but for ``flaw``, and against another one it differs as the references differ
from each other (Dirichlet-smoothed). *unknown* follows the second law against every class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution import Trace
from holdfast.identification.identifier import UNKNOWN
from holdfast.numerics import bits

_BINS = 33


@dataclass(frozen=True, slots=True)
class Match:
    """What a trace is, by likelihood.

    Attributes:
        labels: the smallest set of classes that holds ``level`` of the probability, ``unknown`` among them.
        confidence: the probability of the set.
        posterior: probability of each class (merged labels joined by `` = ``) and of ``unknown``.
        equal: share of bit-equal words with each class.
        probes: units of evidence.
    """

    labels: tuple[str, ...]
    confidence: float
    posterior: Mapping[str, float]
    equal: Mapping[str, float]
    probes: int

    @property
    def label(self) -> str:
        """One class, or ``one of {...}``."""
        return self.labels[0] if len(self.labels) == 1 else f"one of {{{', '.join(self.labels)}}}"


class LikelihoodMatcher:
    """Learns reference traces; see the module for the model.

    Args:
        flaw: share of words that a platform does not repeat when compared with itself.
        unknown: prior probability that a trace comes from no reference.
        level: probability that the reported set holds at least.
        decimals: places to which the target's outputs were rounded (see ``rounding_of``), None if they were not.
    """

    def __init__(
        self, *, flaw: float = 1e-4, unknown: float = 0.1, level: float = 0.99, decimals: int | None = None
    ) -> None:
        if not 0 < flaw < 0.5 or not 0 < unknown < 1 or not 0 < level < 1:
            raise InvalidConfig(f"flaw {flaw}, unknown {unknown} and level {level} are not all probabilities")
        self.flaw, self.unknown, self.level, self.decimals = flaw, unknown, level, decimals

    def fit(self, traces: Sequence[tuple[str, Trace]]) -> LikelihoodMatcher:
        """Learn labelled references and the law of distances between different platforms.

        Raises:
            InvalidConfig: no traces, or traces of other probes, models or shapes.
        """
        if not traces:
            raise InvalidConfig("a matcher needs at least one reference trace")
        self.first_ = traces[0][1]
        merged: list[tuple[list[str], Tensor]] = []
        for label, trace in traces:
            words = self._words(trace)
            known = next((labels for labels, seen in merged if bits.bit_equal(seen, words)), None)
            if known is None:
                merged.append(([label], words))
            elif label not in known:
                known.append(label)
        self.classes_ = {" = ".join(sorted(labels)): words for labels, words in merged}
        self.apart_ = self._law()
        return self

    def _law(self) -> np.ndarray:
        """Log probability of each bin between different classes; each pair weighs as one probe, so none dominates."""
        counts = np.full(_BINS, 0.5)
        classes = list(self.classes_.values())
        for place, one in enumerate(classes):
            for other in classes[:place]:
                counts += np.bincount(_bins(one, other).reshape(-1), minlength=_BINS) / one.numel() * len(one)
        return np.log(counts / counts.sum())  # type: ignore[no-any-return]

    def predict(self, trace: Trace) -> Match:
        """Return the classes that explain ``trace``, or ``unknown``.

        Raises:
            InvalidConfig: a trace that does not fit the references, or a matcher that was not fitted.
        """
        if not hasattr(self, "classes_"):
            raise InvalidConfig("the matcher has no references yet", hint="call fit first")
        words = self._words(trace)
        same = np.full(_BINS, math.log(self.flaw / (_BINS - 1)))
        same[0] = math.log(1 - self.flaw)
        scores, equal = {UNKNOWN: math.log(self.unknown)}, {}
        for label, known in self.classes_.items():
            found = _bins(known, words)
            ratio = (same - self.apart_)[found]
            scores[label] = math.log((1 - self.unknown) / len(self.classes_)) + float(ratio.mean(axis=-1).sum())
            equal[label] = float((found == 0).mean())
        return self._weighed(scores, equal, len(words))

    def _weighed(self, scores: Mapping[str, float], equal: Mapping[str, float], probes: int) -> Match:
        total = logsumexp(list(scores.values()))
        posterior = {label: math.exp(score - total) for label, score in scores.items()}
        ranked = sorted(posterior, key=lambda label: -posterior[label])
        count, mass = 0, 0.0
        while mass < self.level and count < len(ranked):
            mass += posterior[ranked[count]]
            count += 1
        return Match(tuple(ranked[:count]), min(mass, 1.0), posterior, equal, probes)

    def _words(self, trace: Trace) -> Tensor:
        first = self.first_
        if trace.probe_digest != first.probe_digest or trace.model_digest != first.model_digest:
            raise InvalidConfig("the trace was made with other probes or another model than the references")
        if trace.outputs.shape != first.outputs.shape or trace.outputs.dtype != torch.float32:
            raise InvalidConfig(f"a trace of {tuple(trace.outputs.shape)} {trace.outputs.dtype} does not fit")
        words = trace.outputs.reshape(len(trace.outputs), -1)
        if self.decimals is None:
            return words.contiguous()
        return ((words.double() * 10.0**self.decimals).round() / 10.0**self.decimals).float()


def _bins(one: Tensor, other: Tensor) -> np.ndarray:
    """Return the bin of each word: 0 if bit-equal, else 1 + floor(log2 ULP), shape (probes, words)."""
    apart = bits.ulp_distance(one, other).double()
    found = torch.where(apart > 0, 1 + torch.log2(apart.clamp(min=1)).floor(), torch.zeros_like(apart))
    return found.clamp(max=_BINS - 1).long().numpy()
