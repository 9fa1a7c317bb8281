"""Naming a platform probe by probe, and stopping as soon as the error bound allows.

A multi-hypothesis sequential probability ratio test (Wald 1945; Armitage 1950). Each class predicts the bits of every
probe; a class answers as predicted except with probability ``flaw``. *unknown* repeats the answer of a class it is not
with probability at most ``echo`` at each probe, whatever went before. A class is accepted when its likelihood exceeds
that of every rival, unknown included, by (rivals / error): by Ville's inequality a wrong one is accepted with
probability at most ``error``, no matter when one looks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.errors import InvalidConfig
from holdfast.identification.matching import UNKNOWN
from holdfast.identification.posterior import Identification, one_of

UNDECIDED = "undecided"
FLAW = 1e-3


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the test stands.

    Attributes:
        labels: the accepted class (several where they answer alike), ``unknown``, or ``undecided``.
        asked: probes answered so far.
        confidence: posterior probability of the answer under equal priors; of the best one while undecided.
        runner_up: the class next best, if there is one.
    """

    labels: tuple[str, ...]
    asked: int
    confidence: float
    runner_up: str | None

    @property
    def label(self) -> str:
        """One class, ``one of {...}``, ``unknown`` or ``undecided``."""
        return one_of(self.labels)

    def beside(self, answer: Identification) -> Decision:
        """Return the decision, undecided where it contradicts ``answer``, which looks at all probes at once.

        This test knows equal and unequal, and not how near words are: it gives no second verdict.
        """
        shared = set(self.labels) & set(answer.labels) - {UNKNOWN}
        return self if self.labels == answer.labels or shared else replace(self, labels=(UNDECIDED,))


class SequentialMatch:
    """Takes answers one at a time.

    Args:
        references: for each class its answer to every probe (a digest of bits, or a label); classes with equal answers
            everywhere are merged.
        error: bound on the probability of accepting a wrong class.
        flaw: chance that a platform does not repeat its own answer (a lost or struck word).
        echo: bound on the chance that an unknown platform gives a class's answer to one more probe; estimate it with
            :func:`echo_of`.

    Raises:
        InvalidConfig: no references, unequal numbers of answers, or rates that make a match speak against its class.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[Hashable]],
        *,
        error: float = 0.01,
        flaw: float = FLAW,
        echo: float = 0.5,
    ) -> None:
        if not references or len({len(row) for row in references.values()}) != 1:
            raise InvalidConfig("a sequential test needs classes that answered the same probes")
        if not 0 < error < 1 or not 0 < flaw < 0.5 or not flaw < echo < 1 - flaw:
            raise InvalidConfig(
                f"no test with error {error}, flaw {flaw} and echo {echo}", hint="flaw < echo < 1 - flaw"
            )
        self.error, self.flaw, self.echo = error, flaw, echo
        merged: dict[tuple[Hashable, ...], list[str]] = {}
        for label, row in references.items():
            merged.setdefault(tuple(row), []).append(label)
        self._rows = {tuple(sorted(labels)): row for row, labels in merged.items()}
        self._matches = dict.fromkeys(self._rows, 0)
        self._seen: set[int] = set()

    def answer(self, probe: int, value: Hashable) -> Decision:
        """Take the target's answer to one probe.

        Raises:
            InvalidConfig: a probe that does not exist, or that was asked before: repeats are no new evidence.
        """
        count = len(next(iter(self._rows.values())))
        if not 0 <= probe < count or probe in self._seen:
            raise InvalidConfig(f"probe {probe} is not a new one of {count}")
        self._seen.add(probe)
        for labels, row in self._rows.items():
            self._matches[labels] += row[probe] == value
        return self.decision()

    def decision(self) -> Decision:
        """Return the present answer."""
        ranked = sorted(self._rows, key=lambda labels: -self._matches[labels])
        scores = {labels: self._against_unknown(ranked[0]) - self._behind(ranked[0], labels) for labels in ranked}
        scores[(UNKNOWN,)] = 0.0
        order = sorted(scores, key=lambda labels: -scores[labels])
        sure = scores[order[0]] - scores[order[1]] >= math.log((len(scores) - 1) / self.error)
        total = sum(math.exp(score - scores[order[0]]) for score in scores.values())
        return Decision(order[0] if sure else (UNDECIDED,), len(self._seen), 1 / total, " = ".join(order[1]))

    def _against_unknown(self, labels: tuple[str, ...]) -> float:
        hits = self._matches[labels]
        misses = len(self._seen) - hits
        return hits * math.log((1 - self.flaw) / self.echo) + misses * math.log(self.flaw / (1 - self.echo))

    def _behind(self, best: tuple[str, ...], labels: tuple[str, ...]) -> float:
        """Nats by which a class is less likely than another: probes that both or neither match say nothing."""
        return (self._matches[best] - self._matches[labels]) * math.log((1 - self.flaw) / self.flaw)

    def next_probe(self) -> int | None:
        """Return the probe not yet asked that splits the likeliest classes best, None when all were asked.

        A class that has fallen behind by more than the bound no longer counts.
        """
        best = max(self._rows, key=lambda labels: self._matches[labels])
        bound = math.log(1 / self.error)
        alive = [row for labels, row in self._rows.items() if self._behind(best, labels) < bound]
        count = len(next(iter(self._rows.values())))
        left = [probe for probe in range(count) if probe not in self._seen]

        def largest(probe: int) -> int:
            answers = [row[probe] for row in alive]
            return max((answers.count(answer) for answer in set(answers)), default=0)

        return min(left, key=largest, default=None)


def run_sequential(test: SequentialMatch, ask: Mapping[int, Hashable] | Sequence[Hashable]) -> Decision:
    """Ask the probes that ``test`` wants, looking up the target's answers, until it decides or none are left."""
    decision = test.decision()
    while decision.labels == (UNDECIDED,) and (probe := test.next_probe()) is not None:
        decision = test.answer(probe, ask[probe])
    return decision


def echo_of(references: Mapping[str, Sequence[Hashable]], *, confidence: float = 0.95) -> float:
    """Estimate ``echo`` from the classes themselves: how often one that is left out repeats its nearest neighbour.

    Each class is compared with the other class that shares most answers; the largest share over classes, moved up to
    its Clopper-Pearson bound, is returned. Probes answered alike by all classes count as echoes.

    Raises:
        InvalidConfig: fewer than two distinct classes.
    """
    from holdfast.execution import Proportion

    rows = sorted({tuple(row) for row in references.values()}, key=repr)
    if len(rows) < 2:
        raise InvalidConfig("an echo is estimated from two distinct classes or more")
    shared = max(
        sum(one == two for one, two in zip(row, other, strict=True))
        for place, row in enumerate(rows)
        for other in rows[:place]
    )
    bound = Proportion.clopper_pearson(shared, len(rows[0]), confidence).high
    return min(max(bound, 0.05), 1 - 2 * FLAW)
