"""What the attacker makes of his answers, and which of his tries he keeps."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive
from holdfast.shielding.planner import rules
from holdfast.shielding.theft import Knockoff, Point, ScaledCodes, TransferSet, best_copy, surrogate, view_under
from holdfast.shielding.theft.surrogate import released

from .test_theft import theft
from .victims import case

QUICK = Knockoff(steps=40)


def codes_only() -> nn.Module:
    seen = view_under(case().deployed, rules.build("tsqp"))
    return surrogate(case().net, seen, case().pool.take(64).all()[0], derive(0))


def asked(count: int) -> TransferSet:
    return theft(knockoff=QUICK).questions(count)


def loss(made: nn.Module, questions: TransferSet) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(made(questions.images), questions.answers))


@pytest.mark.parametrize(("count", "share", "kept"), [(100, 0.2, 20), (7, 0.5, 3), (10, 0.0, 0), (60, 0.3, 18)])
def test_a_share_of_the_questions_is_kept_aside_and_none_is_lost(count: int, share: float, kept: int) -> None:
    images = torch.arange(count).float().view(-1, 1)
    fit, aside = TransferSet(images, images).parted(share)
    assert len(aside.images) == kept
    assert sorted(torch.cat([fit.images, aside.images]).flatten().tolist()) == list(range(count))
    assert torch.equal(aside.answers, aside.images)


def test_the_kept_copy_is_the_best_on_questions_that_trained_none() -> None:
    begun, questions = codes_only(), asked(100)
    seed = derive(1)
    fit, aside = questions.parted(QUICK.aside)
    tries = [begun, *(best_copy(begun, fit, dataclasses.replace(QUICK, ways=(way,), aside=0), seed)
                      for way in ("keep", "tune"))]  # fmt: skip
    chosen = best_copy(begun, questions, QUICK, seed)
    assert loss(chosen, aside) == pytest.approx(min(loss(made, aside) for made in tries))
    assert loss(chosen, aside) < loss(begun, aside)


def test_a_copy_that_training_only_harms_stays_as_it_was() -> None:
    """Fine-tuning with a rate that wrecks weights: what the attacker began with is one of his tries."""
    begun = released(codes_only())
    mad = Knockoff(steps=20, lr=30.0, tune_lr=30.0)
    chosen = best_copy(begun, asked(100), mad, derive(2))
    assert chosen is begun
    with_few = best_copy(begun, asked(20), mad, derive(2))
    assert with_few is not begun  # four questions aside are too few to choose by


def test_releasing_codes_changes_no_answer_and_leaves_everything_to_learn() -> None:
    begun = codes_only()
    free = released(copy.deepcopy(begun))
    images = case().test.take(50).all()[0]
    assert torch.allclose(free(images), begun(images), atol=1e-5)
    assert not [part for part in free.modules() if isinstance(part, ScaledCodes)]
    own = sum(value.numel() for value in case().net.parameters() if value.requires_grad)
    assert sum(value.numel() for value in free.parameters() if value.requires_grad) > 0.95 * own
    assert any(isinstance(part, ScaledCodes) for part in begun.modules())


def test_copies_are_compared_image_by_image() -> None:
    told = theft().answers()
    judged = theft()._judged
    same, other = judged(case().net, 0, told), judged(codes_only(), 0, told)
    found = same.ahead_of(other)
    assert found.value == pytest.approx(same.fidelity.value - other.fidelity.value)
    independent = (same.fidelity.high - same.fidelity.low) + (other.fidelity.high - other.fidelity.low)
    assert 0 < found.high - found.low < independent
    back = other.ahead_of(same)
    assert (back.value, back.low) == pytest.approx((-found.value, -found.high))
    with pytest.raises(InvalidConfig, match="same inputs"):
        same.ahead_of(Point(0, same.accuracy, same.fidelity))


def test_the_bar_of_a_constant_answer_is_the_victims_most_frequent_one() -> None:
    attack = theft()
    told = attack.answers()
    label = int(told.bincount().argmax())
    assert attack.constant().value == pytest.approx(float((told == label).double().mean()))
    assert attack.constant(torch.zeros_like(told)).value == 1.0


@pytest.mark.parametrize("wrong", [{"ways": ()}, {"ways": ("pray",)}, {"aside": 1.0}, {"tune_lr": 0.0}])
def test_an_attack_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        Knockoff(**wrong)  # type: ignore[arg-type]
