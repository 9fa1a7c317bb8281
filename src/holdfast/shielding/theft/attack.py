"""Model stealing as a measured attack: accuracy and fidelity of the copy against the number of questions asked.

The attacker holds what the placement shows him, may know the public model that the victim came from, and asks the
victim about images of his own (KnockoffNets; Orekondy et al., CVPR 2019). "No Privacy Left Outside" (Zhang et al.,
IEEE S&P 2024) measures partitions this way; the whole model in the trusted world is the black-box bar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.run import predict
from holdfast.execution.statistics import MeanEstimate, Proportion
from holdfast.seeds import derive
from holdfast.shielding.theft.knockoff import Knockoff, best_copy
from holdfast.shielding.theft.surrogate import ScaledCodes, surrogate
from holdfast.shielding.theft.transfer import TransferSet, ask
from holdfast.shielding.theft.view import View

_OWN = 256  # images of his pool that he looks at without asking


@dataclass(frozen=True, slots=True)
class Point:
    """One copy.

    Attributes:
        budget: questions asked.
        accuracy: of the copy on the test data.
        fidelity: share of test inputs on which copy and victim give one label.
        agrees: on which of them, in order.
    """

    budget: int
    accuracy: Proportion
    fidelity: Proportion
    agrees: tuple[bool, ...] = field(default=(), repr=False)

    def ahead_of(self, other: Point) -> MeanEstimate:
        """Return this copy's fidelity less the other's, paired over the test inputs, with a 95 % interval.

        Raises:
            InvalidConfig: the two were not judged on as many inputs, or on none.
        """
        if len(self.agrees) != len(other.agrees) or not self.agrees:
            raise InvalidConfig("the two copies were not judged on the same inputs", hint="use one Theft for both")
        differences = [float(mine) - float(theirs) for mine, theirs in zip(self.agrees, other.agrees, strict=True)]
        return MeanEstimate.student_t(differences, least=-1.0, most=1.0)


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
    _blinds: dict[Any, tuple[nn.Module | None, nn.Module]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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

    def constant(self, told: Tensor | None = None) -> Proportion:
        """Return the fidelity of always saying the victim's most frequent answer; ``told`` is from :meth:`answers`."""
        said = told if told is not None else self.answers()
        return Proportion.wilson(int(said.bincount().max()), len(self.test))

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
            points.append(self._judged(self._copied(start, seen, public, asked.first(budget)), budget, truth))
            if progress is not None:
                progress(done + 1, len(budgets))
        return Curve(hidden_parameters(start), sum(value.numel() for value in _all(start)), tuple(points))

    def _copied(self, start: nn.Module, seen: View, public: nn.Module | None, asked: TransferSet) -> nn.Module:
        place = derive(self.seed, "theft", "training")
        if not seen:
            return self._blind(public, asked)
        others = (self._blind(public, asked),) if len(asked.images) and hidden_parameters(start) else ()
        return best_copy(start, asked, self.knockoff, place, others=others)

    def _blind(self, public: nn.Module | None, asked: TransferSet) -> nn.Module:
        """Return the copy of somebody who sees nothing; made once, since every placement is compared with it."""
        key = (id(public), len(asked.images), asked.digest())
        if key not in self._blinds:
            knows = self.knockoff if public is not None else replace(self.knockoff, ways=("keep",))
            made = best_copy(self._start({}, public), asked, knows, derive(self.seed, "theft", "training"))
            self._blinds[key] = public, made  # the public model is held, so that its id stays its own
        return self._blinds[key][1]

    def _start(self, seen: View, public: nn.Module | None) -> nn.Module:
        place = derive(self.seed, "theft", "weights")
        own = self.pool.take(_OWN).all()[0]
        return surrogate(self.architecture, seen, own, place, public=public)

    def _judged(self, copy: nn.Module, budget: int, truth: Tensor) -> Point:
        said = predict(copy, self.test).argmax(1)
        right, agrees = said == self.test.labels, said == truth
        accuracy, fidelity = (Proportion.wilson(int(part.sum()), len(part)) for part in (right, agrees))
        return Point(budget, accuracy, fidelity, tuple(agrees.tolist()))


def hidden_parameters(copy: nn.Module) -> int:
    """Return how many parameters the attacker does not see."""
    return sum(value.numel() for value in copy.parameters() if value.requires_grad)


def _all(copy: nn.Module) -> list[Tensor]:
    codes = [part.codes for part in copy.modules() if isinstance(part, ScaledCodes)]
    return [*copy.parameters(), *codes]
