"""What the attacker asks the victim: a transfer set of his own images and the victim's answers.

KnockoffNets (Orekondy, Schiele & Fritz, CVPR 2019, section 4): images drawn at random from the attacker's pool, or
adaptively, by a gradient bandit over the pool's own labels. Of its rewards, certainty and diversity are here; the
third, the surrogate's loss, would need the surrogate trained after every answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.seeds import Seed

Strategy = Literal["random", "adaptive"]
Answers = Literal["probabilities", "labels"]
Victim = Callable[[Tensor], Tensor]

_ROUND = 16  # adaptive questions asked together; rewards are counted after each round


@dataclass(frozen=True, slots=True)
class TransferSet:
    """Questions in the order they were asked, so that a smaller budget is a beginning of a larger one.

    Attributes:
        images: float32 network inputs, (n, c, h, w).
        answers: probabilities, (n, classes); of one class alone where the victim says only that.
    """

    images: Tensor
    answers: Tensor

    def first(self, budget: int) -> TransferSet:
        """Return what a smaller budget would have bought."""
        return TransferSet(self.images[:budget], self.answers[:budget])

    def digest(self) -> bytes:
        """Return a fingerprint of questions and answers, the same for equal ones."""
        parts = (self.images.contiguous(), self.answers.contiguous())
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).digest()

    def parted(self, share: float) -> tuple[TransferSet, TransferSet]:
        """Return the questions to learn from, and every so many-th, a ``share`` of them, to choose a copy by."""
        ranks = torch.arange(1, len(self.images) + 1, dtype=torch.float64)
        aside = (ranks * share + 1e-9).floor() > ((ranks - 1) * share + 1e-9).floor()
        rest, kept = (TransferSet(self.images[part], self.answers[part]) for part in (~aside, aside))
        return rest, kept


def ask(
    victim: Victim, pool: Dataset, budget: int, seed: Seed, *, strategy: Strategy = "random",
    answers: Answers = "probabilities",
) -> TransferSet:  # fmt: skip
    """Spend ``budget`` questions on images of ``pool``.

    Raises:
        InvalidConfig: fewer images than questions, or an adaptive strategy without labels on the pool.
    """
    if budget > len(pool):
        raise InvalidConfig(f"{budget} questions need as many images, and the pool has {len(pool)}")

    def answer(indices: Tensor) -> Tensor:
        return _answers(victim, pool, indices, answers)

    if strategy == "random":
        order = torch.from_numpy(seed.numpy().permutation(len(pool)))[:budget]
        found = [answer(part) for part in order.split(128)] if budget else []
    else:
        order, found = _adaptive(answer, pool, budget, seed)
    images = pool.batch(order)[0]
    return TransferSet(images, torch.cat(found) if found else images.new_zeros(0, 0))


def _answers(victim: Victim, pool: Dataset, indices: Tensor, answers: Answers) -> Tensor:
    with torch.no_grad():
        outputs = victim(pool.batch(indices)[0]).float()
    if answers == "probabilities":
        return outputs.softmax(1)
    return torch.nn.functional.one_hot(outputs.argmax(1), outputs.shape[1]).float()


def _adaptive(
    answer: Callable[[Tensor], Tensor], pool: Dataset, budget: int, seed: Seed
) -> tuple[Tensor, list[Tensor]]:
    """Return the images asked about, in order, and the answers."""
    if not pool.classes:
        raise InvalidConfig("adaptive questions go by the pool's labels, and it has none", hint="ask at random")
    generator, bandit = seed.numpy(), Bandit(len(pool.classes))
    left = [list(generator.permutation(np.flatnonzero(pool.labels.numpy() == k))) for k in range(len(pool.classes))]
    chosen: list[Tensor] = []
    found: list[Tensor] = []
    while (missing := budget - sum(map(len, chosen))) > 0:
        actions = [bandit.choose(left, generator) for _ in range(min(_ROUND, missing))]
        indices = torch.tensor([int(left[action].pop()) for action in actions])
        chosen.append(indices)
        found.append(answer(indices))
        for action, row in zip(actions, found[-1], strict=True):
            bandit.learn(action, row)
    return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64), found


class Bandit:
    """A gradient bandit over labels (Sutton & Barto, section 2.8), as KnockoffNets uses it.

    The reward of an answer is its certainty, the margin of its two largest probabilities, plus its diversity, how much
    it exceeds the mean answer so far; each is in 0 .. 1.
    """

    def __init__(self, actions: int) -> None:
        self.preference, self.counts = np.zeros(actions), np.zeros(actions)
        self._rewards: list[float] = []
        self._mean: Tensor | None = None

    def choose(self, left: list[list[int]], generator: np.random.Generator) -> int:
        """Return a label by its probability, among those with images left; the image is then to be taken."""
        law = self._law() * np.array([len(part) > 0 for part in left])
        if not law.sum() > 0:
            law = np.array([float(len(part)) for part in left])
        action = int(generator.choice(len(law), p=law / law.sum()))
        if not left[action]:
            raise InvalidConfig("the pool is used up")
        return action

    def learn(self, action: int, answer: Tensor) -> None:
        """Move the preferences by the reward of one ``answer``, shape (classes,)."""
        reward, law = self._reward(answer), self._law()
        self._rewards.append(reward)
        self.counts[action] += 1
        step = (reward - float(np.mean(self._rewards))) / self.counts[action]
        self.preference -= step * law
        self.preference[action] += step

    def _law(self) -> np.ndarray:
        raised = np.exp(self.preference - self.preference.max())
        law: np.ndarray = raised / raised.sum()
        return law

    def _reward(self, answer: Tensor) -> float:
        best, second = answer.topk(2).values.tolist()
        before, count = self._mean, len(self._rewards)
        self._mean = answer.clone() if before is None else before + (answer - before) / (count + 1)
        diversity = 0.0 if before is None else float((answer - before).clamp(min=0).sum())
        reward: float = (best - second + diversity) / 2
        return reward
