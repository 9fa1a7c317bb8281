"""Model stealing as a measured attack: accuracy and fidelity of the copy against the number of questions asked.

The attacker holds what the placement shows him, may know the public model that the victim came from, and asks the
victim about images of his own (KnockoffNets; Orekondy et al., CVPR 2019). "No Privacy Left Outside" (Zhang et al.,
IEEE S&P 2024) measures partitions this way; the whole model in the trusted world is the black-box bar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.run import predict
from holdfast.execution.statistics import Proportion
from holdfast.seeds import Seed, derive
from holdfast.shielding.theft.surrogate import ScaledCodes, surrogate
from holdfast.shielding.theft.transfer import Answers, Strategy, TransferSet, ask
from holdfast.shielding.theft.view import View

_OWN = 256  # images of his pool that he looks at without asking
_NORMS_LEARN = 32  # questions from which on normalisation may take its statistics from them


@dataclass(frozen=True, slots=True, kw_only=True)
class Knockoff:
    """How the attacker asks and trains."""

    strategy: Strategy = "random"
    answers: Answers = "probabilities"  # what the victim says: probabilities, or its label alone
    steps: int = 300  # of Adam, on batches of the transfer set
    batch_size: int = 64
    lr: float = 3e-3  # of weights he has to learn
    scale_lr: float = 3e-2  # of scales (as logarithms) and biases of layers whose codes he sees

    def __post_init__(self) -> None:
        if self.strategy not in ("random", "adaptive") or self.answers not in ("probabilities", "labels"):
            raise InvalidConfig(f"no attack asks {self.strategy!r} for {self.answers!r}")
        if self.steps < 1 or self.batch_size < 2 or not (self.lr > 0 and self.scale_lr > 0):
            raise InvalidConfig("an attack takes a step or more, two samples or more each, and positive rates")


@dataclass(frozen=True, slots=True)
class Point:
    """One copy.

    Attributes:
        budget: questions asked.
        accuracy: of the copy on the test data.
        fidelity: share of test inputs on which copy and victim give one label.
    """

    budget: int
    accuracy: Proportion
    fidelity: Proportion


@dataclass(frozen=True, slots=True)
class Curve:
    """One placement under attack.

    Attributes:
        hidden: parameters that the attacker has to learn, of how many in all.
        points: by budget.
    """

    hidden: int
    parameters: int
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        points = [
            {
                "budget": point.budget,
                "accuracy": point.accuracy.measurement().to_json(),
                "fidelity": point.fidelity.measurement().to_json(),
            }
            for point in self.points
        ]
        return {"hidden": self.hidden, "parameters": self.parameters, "points": points}


@dataclass(frozen=True, slots=True, kw_only=True)
class Theft:
    """A victim under attack; every placement meets the same questions and the same judge.

    Attributes:
        victim: as deployed, (batch, ...) to logits; answers the attacker.
        architecture: a float model of its form; only the form is used.
        pool: images of the attacker, never of the test data.
        test: labelled judge.
        knockoff: how he asks and trains.
        seed: of questions, fresh weights and the order of training.
    """

    victim: nn.Module
    architecture: nn.Module
    pool: Dataset
    test: Dataset
    knockoff: Knockoff = field(default_factory=Knockoff)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.test.classes:
            raise InvalidConfig("the test data has no labels")
        seen = {row.numpy().tobytes() for row in self.test.raw}
        if any(row.numpy().tobytes() in seen for row in self.pool.raw):
            raise InvalidConfig(
                "the attacker's pool and the test data share an image", hint="his copy would be judged on what he asked"
            )

    def answers(self) -> Tensor:
        """Return the victim's labels on the test data, (n,)."""
        return predict(self.victim, self.test).argmax(1)

    def questions(self, budget: int) -> TransferSet:
        """Ask the victim."""
        chosen = self.knockoff
        place = derive(self.seed, "theft", "questions")
        return ask(self.victim, self.pool, budget, place, strategy=chosen.strategy, answers=chosen.answers)

    def victim_accuracy(self) -> Proportion:
        """Return the accuracy of the victim."""
        return Proportion.wilson(int((self.answers() == self.test.labels).sum()), len(self.test))

    def chance(self) -> Proportion:
        """Return the accuracy of always saying the most frequent class of the test data."""
        return Proportion.wilson(int(self.test.labels.bincount().max()), len(self.test))

    def curve(
        self,
        seen: View,
        budgets: Sequence[int],
        *,
        public: nn.Module | None = None,
        questions: TransferSet | None = None,
        told: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Curve:
        """Attack one placement with each of ``budgets`` questions; 0 asks none.

        Args:
            seen: what the worker holds, see :func:`~holdfast.shielding.theft.view`.
            public: the published model, where the attacker knows it.
            questions: from :meth:`questions`, for several curves to share.
            told: from :meth:`answers`, likewise.
        """
        asked = questions if questions is not None else self.questions(max(budgets, default=0))
        truth = told if told is not None else self.answers()
        points = []
        start = self._start(seen, public)
        for done, budget in enumerate(budgets):
            copy = self._start(seen, public)
            if budget:
                train_copy(copy, asked.first(budget), self.knockoff, derive(self.seed, "theft", "training"))
            points.append(self._judged(copy, budget, truth))
            if progress is not None:
                progress(done + 1, len(budgets))
        return Curve(hidden_parameters(start), sum(value.numel() for value in _all(start)), tuple(points))

    def _start(self, seen: View, public: nn.Module | None) -> nn.Module:
        place = derive(self.seed, "theft", "weights")
        own = self.pool.take(_OWN).all()[0]
        return surrogate(self.architecture, seen, own, place, public=public)

    def _judged(self, copy: nn.Module, budget: int, truth: Tensor) -> Point:
        said = predict(copy, self.test).argmax(1)
        n = len(self.test)
        right, alike = int((said == self.test.labels).sum()), int((said == truth).sum())
        return Point(budget, Proportion.wilson(right, n), Proportion.wilson(alike, n))


def hidden_parameters(copy: nn.Module) -> int:
    """Return how many parameters the attacker does not see."""
    return sum(value.numel() for value in copy.parameters() if value.requires_grad)


def _all(copy: nn.Module) -> list[Tensor]:
    codes = [part.codes for part in copy.modules() if isinstance(part, ScaledCodes)]
    return [*copy.parameters(), *codes]


def train_copy(copy: nn.Module, questions: TransferSet, knockoff: Knockoff, seed: Seed) -> None:
    """Fit what is hidden in ``copy`` to the victim's answers, in place: cross-entropy with soft labels, Adam."""
    groups = _groups(copy, knockoff)
    if not groups:
        return
    optimiser = torch.optim.Adam(groups)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, knockoff.steps)
    copy.train(len(questions.images) >= _NORMS_LEARN)
    for indices in _draws(len(questions.images), knockoff, seed):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(copy(questions.images[indices]), questions.answers[indices])
        loss.backward()
        optimiser.step()
        decay.step()
    copy.eval()


def _groups(copy: nn.Module, knockoff: Knockoff) -> list[dict[str, Any]]:
    owned = {id(value) for part in copy.modules() if isinstance(part, ScaledCodes) for value in part.parameters()}
    learned = [value for value in copy.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learned if id(value) in owned], "lr": knockoff.scale_lr},
        {"params": [value for value in learned if id(value) not in owned], "lr": knockoff.lr},
    ]
    return [group for group in groups if group["params"]]


def _draws(count: int, knockoff: Knockoff, seed: Seed) -> list[Tensor]:
    """Return the samples of every step: passes over all, each in an order of its own."""
    generator, size = seed.numpy(), min(count, knockoff.batch_size)
    wanted = knockoff.steps * size
    order = [torch.from_numpy(generator.permutation(count)) for _ in range(-(-wanted // count))]
    return list(torch.cat(order)[:wanted].split(size))
