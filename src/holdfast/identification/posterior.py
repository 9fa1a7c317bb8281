"""From distances to an answer: probabilities of classes and of ``unknown``, and the evidence that decided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from torch import Tensor

from holdfast.identification.evidence import Evidence, described
from holdfast.identification.grid_text import Rounding
from holdfast.identification.matching import UNKNOWN, Bins, DistanceLaw, Nats, bins_of

Flags = npt.NDArray[np.bool_]
_EXPLAINED = 0.9  # share of probes that a fleet of known platforms repeats in full

_RULED_OUT = math.log(1e-6)


@dataclass(frozen=True, slots=True)
class Candidate:
    """How well one equivalence class explains a trace."""

    labels: tuple[str, ...]  # platforms that gave identical bits
    probability: float  # posterior, 0..1
    equal_fraction: float  # share of output words that are bit-equal, 0..1
    median_ulp: float  # median distance of all words; in steps of the rounding where outputs were rounded


@dataclass(frozen=True, slots=True)
class Identification:
    """The answer: the platforms that explain a trace, how surely, and by which evidence.

    Attributes:
        labels: the fewest classes that hold ``level`` of the probability, spelled out; ``unknown`` may be among them.
        confidence: probability of that set.
        unknown: probability that the trace comes from no reference.
        candidates: every class, likeliest first.
        evidence: what was found, the most decisive first.
        rounding: how the outputs had been rounded.
        grid: number format of the outputs, or ``cannot tell``.
    """

    labels: tuple[str, ...]
    confidence: float
    unknown: float
    candidates: tuple[Candidate, ...]
    evidence: tuple[Evidence, ...]
    rounding: Rounding
    grid: str

    @property
    def label(self) -> str:
        """The platform; ``one of {...}`` where several cannot be told apart; ``unknown``."""
        return one_of(self.labels)

    @property
    def known(self) -> bool:
        """Whether the trace is one of the references'; False also where that is left open."""
        return UNKNOWN not in self.labels

    @property
    def equal_fraction(self) -> float:
        """Share of bit-equal words with the best class."""
        return self.candidates[0].equal_fraction

    @property
    def runner_up(self) -> Candidate | None:
        """The best class that is not part of the answer, if there is one."""
        return next((item for item in self.candidates if not set(item.labels) <= set(self.labels)), None)

    @property
    def decided(self) -> Evidence:
        """The evidence that separates the answer from its closest rival most."""
        return self.evidence[0]


def one_of(labels: Sequence[str]) -> str:
    """Return a label, or ``one of {...}``."""
    return labels[0] if len(labels) == 1 else f"one of {{{', '.join(labels)}}}"


class Posterior:
    """Probabilities of classes and of ``unknown`` from distances to every class.

    Args:
        apart: for each class the distance of every word, shape (probes, words); NaN where none was compared.
        law: what distances mean.
        unknown: prior probability of no class; the rest is shared evenly.
    """

    def __init__(self, apart: Mapping[tuple[str, ...], Tensor], law: DistanceLaw, unknown: float) -> None:
        self.distances = {labels: item[~item.isnan()] for labels, item in apart.items()}
        found = {labels: bins_of(item) for labels, item in apart.items()}
        self.repeated = {labels: _repeated(item) for labels, item in found.items()}
        self.same = {labels: law.same(item) for labels, item in found.items()}
        self.apart = {labels: law.apart(item) for labels, item in found.items()}
        share = -math.log(len(found))
        scores = {labels: math.log1p(-unknown) + share + nats.total for labels, nats in self.same.items()}
        scores[(UNKNOWN,)] = math.log(unknown) + share + float(logsumexp([n.total for n in self.apart.values()]))
        total = float(logsumexp(list(scores.values())))
        self.scores = {labels: score - total for labels, score in scores.items()}
        self.ranked = sorted(scores, key=self._rank)

    def _rank(self, labels: tuple[str, ...]) -> tuple[float, float, float]:
        """Order by likelihood; what is ruled out, by words in common: texts that part early have few that differ."""
        score = self.scores[labels]
        if labels == (UNKNOWN,) or score > _RULED_OUT:
            return 0.0, -score, 0.0
        return 1.0, -float((self.distances[labels] == 0).sum()), -score

    def answer(self, rounding: Rounding, grid: str, level: float) -> Identification:
        """Return the smallest set that holds ``level``, with all the evidence."""
        count, mass = 0, 0.0
        while mass < level and count < len(self.ranked):
            mass += math.exp(self.scores[self.ranked[count]])
            count += 1
        labels = tuple(label for part in self.ranked[:count] for label in part)
        lines = [*self._separating(count), *described(rounding, grid), *self._fleet(labels)]
        return Identification(
            labels,
            min(mass, 1.0),
            math.exp(self.scores[(UNKNOWN,)]),
            tuple(self._candidates()),
            tuple(sorted(lines, key=lambda item: -item.nats)),
            rounding,
            grid,
        )

    def _candidates(self) -> Iterator[Candidate]:
        for labels in self.ranked:
            if labels != (UNKNOWN,):
                seen = self.distances[labels]
                equal, middle = float((seen == 0).double().mean()), float(seen.median())
                yield Candidate(labels, math.exp(self.scores[labels]), equal, middle)

    def _separating(self, count: int) -> Iterator[Evidence]:
        """Yield equality and distance: what was seen, and by how many nats each puts the answer before its rival."""
        best = next(labels for labels in self.ranked if labels != (UNKNOWN,))
        seen, name = self.distances[best], one_of(best)
        answer, rival = self._nats(self.ranked[0]), self._nats(self.ranked[min(count, len(self.ranked) - 1)])
        apart, equal = seen[seen > 0], float((seen == 0).double().mean())
        text = f"{equal:.2%} of {len(seen)} words bit-equal with {name}"
        yield Evidence("word equality", text, answer.equality - rival.equality)
        if len(apart):
            middle = float(apart.median())
            what = "the other one is" if len(apart) == 1 else f"the other {len(apart)} are"
            text = f"{what} {middle:g} unit{'' if middle == 1 else 's'} apart in the median"
            yield Evidence("ULP distance", text, answer.distance - rival.distance)

    def _fleet(self, labels: tuple[str, ...]) -> Iterator[Evidence]:
        """Yield a finding if nearly every probe repeats all bits of a reference, and no one reference explains them."""
        if labels != (UNKNOWN,):
            return
        every = np.stack(list(self.repeated.values()))
        alone = every & (every.sum(axis=0) == 1)
        shares = {name: int(row.sum()) for name, row in zip(self.repeated, alone, strict=True)}
        parts = sorted((name for name in shares if shares[name] > 1), key=lambda name: -shares[name])
        if every.any(axis=0).mean() < _EXPLAINED or len(parts) < 2:
            return
        told = ", ".join(f"{one_of(name)} {shares[name]}" for name in parts)
        count = every.shape[1]
        yield Evidence(
            "fleet", f"of {count} probes nearly each repeats one reference: {told}; a mixed fleet, or routing"
        )

    def _nats(self, labels: tuple[str, ...]) -> Nats:
        if labels != (UNKNOWN,):
            return self.same[labels]
        return max(self.apart.values(), key=lambda nats: nats.total)


def _repeated(found: Bins) -> Flags:
    """Return which probes repeat every word of a reference."""
    return np.asarray((found <= 0).all(axis=1) & (found == 0).any(axis=1))
