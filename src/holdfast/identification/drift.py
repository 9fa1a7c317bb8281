"""Log-probability tracking: has the service behind an address changed since last time (Chauvin et al., ICLR 2026).

The statistic of the paper (arXiv 2512.03816): log-probabilities of the first generated token, averaged over repeated
answers for each token of the top, and the mean absolute difference of these averages between two times. A token that
an answer does not list lies somewhere below the last that it does, and is counted as that one. The p-value is that of
a permutation within prompts.

One test decides once. Who looks again every hour needs :class:`DriftMonitor`: its evidence is a betting score on
conformal p-values (Vovk et al., 2021), whose chance of *ever* passing 1 / error is at most ``error`` while nothing
changes, however often one looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidConfig
from holdfast.identification.equality import TwoSample, outcome
from holdfast.identification.samples import answered_twice, sides
from holdfast.seeds import Seed, derive

Top = Mapping[str, float]  # token -> log-probability at one position
Tops = Mapping[int, Sequence[Top]]  # prompt -> repeated answers
_Rows = npt.NDArray[np.float64]
_BETS = (0.05, 0.15, 0.3, 0.5, 0.8)  # exponents of the betting functions: small ones stake on very small p-values


def logprob_drift(one: Tops, other: Tops, *, permutations: int = 1000, seed: Seed | int = 0) -> TwoSample:
    """Test whether the mean log-probabilities of two times are those of one service; the statistic is in nats.

    Args:
        one: for each prompt the first token's top log-probabilities, an entry an answer.
        other: those of another time.
        permutations: relabellings to draw.
        seed: of the permutations.

    Raises:
        InvalidConfig: no prompt with two answers on either side.
    """
    shared = answered_twice(one, other, "drift")
    generator = derive(seed, "logprob-drift").numpy()
    scores = np.zeros(permutations + 1)
    for prompt in shared:
        rows = table([*one[prompt], *other[prompt]])
        scores += _shifts(rows, len(one[prompt]), permutations, generator)
    sizes = sum(len(one[prompt]) for prompt in shared), sum(len(other[prompt]) for prompt in shared)
    return outcome(scores / len(shared), len(shared), sizes)


def table(answers: Sequence[Top]) -> _Rows:
    """Return log-probabilities, shape (answers, tokens); a token not listed counts as the last that is."""
    names = sorted({name for answer in answers for name in answer})
    if not names:
        raise InvalidConfig("the answers hold no log-probabilities", hint="ask the server for top log-probabilities")
    floors = [min(answer.values(), default=0.0) for answer in answers]
    return np.array(
        [[answer.get(name, floor) for name in names] for answer, floor in zip(answers, floors, strict=True)]
    )


def _shifts(rows: _Rows, first: int, permutations: int, generator: np.random.Generator) -> _Rows:
    """Return the mean over tokens of the absolute difference of averages, observed and under relabellings."""
    total = len(rows)
    side = sides(total, first, permutations, generator)
    centred = rows - rows[0]  # so that answers that are all equal give exactly zero
    return np.asarray(np.abs(side @ centred / first - (1 - side) @ centred / (total - first)).mean(axis=1))


@dataclass(frozen=True, slots=True)
class Watched:
    """Where a monitor stands.

    Attributes:
        evidence: what a bet against "nothing changed", begun with 1, has become.
        alarm: whether it passed 1 / error, now or before.
        answers: how many were seen.
    """

    evidence: float
    alarm: bool
    answers: int


class DriftMonitor:
    """Watches answers as they come, with one bound on the chance of ever giving a false alarm.

    The first half of each prompt's reference answers gives the centre, the second half says how far answers lie from
    it while nothing is wrong. An answer's p-value is the share of all before it that lie as far away, ties split at
    random; if nothing changed these are independent and uniform. Bets start anew at every answer with a stake of
    1 / (t (t + 1)), so a change after a long quiet time is seen as well.

    Args:
        reference: for each prompt four answers or more from a time when all was well.
        error: chance of ever giving an alarm while nothing changes.
        seed: of the split ties.

    Raises:
        InvalidConfig: fewer than four reference answers to a prompt, or an error outside (0, 1).
    """

    def __init__(self, reference: Tops, *, error: float = 0.01, seed: Seed | int = 0) -> None:
        if not 0 < error < 1:
            raise InvalidConfig(f"an error lies between 0 and 1, not {error}")
        if not reference or min(map(len, reference.values())) < 4:
            raise InvalidConfig("a monitor needs four reference answers to each prompt", hint="collect --repeat 10")
        self.error = error
        self._generator = derive(seed, "drift-monitor").numpy()
        self._centres = {prompt: _centre(answers) for prompt, answers in reference.items()}
        self._scores = {
            prompt: [self._score(prompt, answer) for answer in answers[len(answers) // 2 :]]
            for prompt, answers in reference.items()
        }
        self._capital = np.zeros(len(_BETS))
        self._state = Watched(1.0, alarm=False, answers=0)

    @property
    def state(self) -> Watched:
        """Where the monitor stands."""
        return self._state

    def see(self, prompt: int, answer: Top) -> Watched:
        """Take one more answer.

        Raises:
            InvalidConfig: a prompt without reference, or an answer without log-probabilities.
        """
        if prompt not in self._centres or not answer:
            raise InvalidConfig(f"there is no reference for prompt {prompt}, or no log-probability in the answer")
        seen, score = self._scores[prompt], self._score(prompt, answer)
        seen.append(score)
        above, ties = sum(item > score for item in seen), sum(item == score for item in seen)
        p_value = max((above + self._generator.random() * ties) / len(seen), 1e-300)
        count = self._state.answers + 1
        gains = np.array([bet * p_value ** (bet - 1) for bet in _BETS])
        self._capital = gains * (self._capital + 1 / (count * (count + 1)))
        evidence = float(self._capital.mean()) + 1 / (count + 1)
        self._state = Watched(evidence, self._state.alarm or evidence >= 1 / self.error, count)
        return self._state

    def _score(self, prompt: int, answer: Top) -> float:
        centre = self._centres[prompt]
        floor = min(answer.values(), default=-math.inf)
        return sum(abs(answer.get(name, floor) - value) for name, value in centre.items()) / len(centre)


def _centre(answers: Sequence[Top]) -> Top:
    """Return the average of the first half of the answers."""
    half = answers[: len(answers) // 2]
    names = sorted({name for answer in half for name in answer})
    return dict(zip(names, table(half).mean(axis=0).tolist(), strict=True))
