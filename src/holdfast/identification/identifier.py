"""Reference matching: the same probes on the same model give the same bits only on an equivalent platform.

Classifiers trained on the bits of *unseen* inputs (HSPI's logit distributions, Zhang et al., ICML 2025) hardly beat
chance between fp32 stacks on held-out inputs; matching *known* probes against references tells them apart from one
input. Classes that give identical bits on all probes are merged and reported together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution import Trace
from holdfast.numerics import bits

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Candidate:
    """How well one equivalence class explains a trace."""

    labels: tuple[str, ...]  # platforms that gave identical bits
    equal_fraction: float  # share of output words that are bit-equal, 0..1
    median_ulp: float  # median distance of all words


@dataclass(frozen=True, slots=True)
class Identification:
    """The answer: a class or ``unknown``, and the evidence for it."""

    labels: tuple[str, ...]
    candidates: tuple[Candidate, ...]  # best first
    evidence: tuple[str, ...]

    @property
    def label(self) -> str:
        """The platform; several that cannot be told apart are joined by `` = ``."""
        return " = ".join(self.labels)

    @property
    def equal_fraction(self) -> float:
        """Share of bit-equal words with the best class."""
        return self.candidates[0].equal_fraction

    @property
    def runner_up(self) -> Candidate | None:
        """The second-best class, if there is one."""
        return self.candidates[1] if len(self.candidates) > 1 else None


class Identifier:
    """Learns reference traces and names the platform of a new one.

    Args:
        threshold: share of bit-equal words below which the answer is ``unknown``. An equivalent platform repeats every
            bit, while different fp32 stacks share typically below half of their words, so the default leaves room for
            a few rounded or lost words and none for a neighbour.
    """

    def __init__(self, threshold: float = 0.95) -> None:
        if not 0 < threshold <= 1:
            raise InvalidConfig(f"a threshold lies in 0..1, not {threshold}")
        self.threshold = threshold

    def fit(self, traces: Sequence[tuple[str, Trace]]) -> Identifier:
        """Learn labelled references; merge those with identical bits.

        Raises:
            InvalidConfig: no traces, or traces of different probes or models.
        """
        if not traces:
            raise InvalidConfig("an identifier needs at least one reference trace")
        first = traces[0][1]
        self.probe_digest_, self.model_digest_ = first.probe_digest, first.model_digest
        self.classes_: list[tuple[tuple[str, ...], Tensor]] = []
        for label, trace in traces:
            self._require_comparable(trace)
            self._add(label, trace.outputs)
        return self

    def _add(self, label: str, outputs: Tensor) -> None:
        for place, (labels, known) in enumerate(self.classes_):
            if bits.bit_equal(known, outputs):
                merged = labels if label in labels else (*labels, label)
                self.classes_[place] = (merged, known)
                return
        self.classes_.append(((label,), outputs))

    def predict(self, trace: Trace) -> Identification:
        """Return the class whose reference shares most bits with ``trace``; ``unknown`` if none shares enough.

        Raises:
            InvalidConfig: a trace of other probes or another model, or an identifier that was not fitted.
        """
        self._require_comparable(trace)
        candidates = [_score(labels, known, trace.outputs) for labels, known in self.classes_]
        candidates.sort(key=lambda item: (-item.equal_fraction, item.median_ulp))
        best = candidates[0]
        labels = best.labels if best.equal_fraction >= self.threshold else (UNKNOWN,)
        lines = [
            f"{' = '.join(item.labels)}: {item.equal_fraction:.1%} of words bit-equal, median {item.median_ulp:g} ULP"
            for item in candidates
        ]
        return Identification(labels, tuple(candidates), tuple(lines))

    def _require_comparable(self, trace: Trace) -> None:
        if not hasattr(self, "probe_digest_"):
            raise InvalidConfig("the identifier has no references yet", hint="call fit first")
        if trace.probe_digest != self.probe_digest_:
            raise InvalidConfig("the trace was made with other probes than the references")
        if trace.model_digest != self.model_digest_:
            raise InvalidConfig("the trace was made with another model than the references")


def _score(labels: tuple[str, ...], known: Tensor, outputs: Tensor) -> Candidate:
    if known.shape != outputs.shape or known.dtype != outputs.dtype:
        raise InvalidConfig(f"a trace of shape {tuple(outputs.shape)} does not fit references {tuple(known.shape)}")
    equal = bits.int_view(known.contiguous()) == bits.int_view(outputs.contiguous())
    median = torch.median(bits.ulp_distance(known, outputs))
    return Candidate(labels, float(equal.double().mean()), float(median))
