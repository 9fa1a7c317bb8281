"""What the attacker makes of his answers, and which of his tries he keeps."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive
from holdfast.shielding.graph import export
from holdfast.shielding.planner import rules
from holdfast.shielding.theft import (
    Knockoff,
    Point,
    ScaledCodes,
    TransferSet,
    best_copy,
    folded,
    surrogate,
    view_under,
)
from holdfast.shielding.theft.knockoff import Way
from holdfast.shielding.theft.surrogate import recognised, released

from .test_theft import theft
from .victims import case

QUICK = Knockoff(steps=40)
WAYS: tuple[Way, ...] = ("keep", "rush")


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
    with_few = best_copy(begun, asked(16), mad, derive(2))
    assert with_few is not begun  # three questions aside are too few to choose by


def test_scales_that_are_nearly_right_are_learned_gently() -> None:
    """A rate that finds guessed scales drives fitted ones away: questions then make a copy worse than none."""
    begun, questions = codes_only(), asked(100)
    begun = best_copy(begun, questions, QUICK, derive(1))
    rough = Knockoff(steps=20, scale_lr=1.0, ways=("keep",), aside=0)
    gentle = dataclasses.replace(rough, ways=("gentle",))
    assert loss(best_copy(begun, questions, gentle, derive(3)), questions) < loss(begun, questions)
    assert loss(best_copy(begun, questions, rough, derive(3)), questions) > loss(begun, questions)
    both = best_copy(begun, questions, dataclasses.replace(rough, ways=("keep", "gentle"), aside=0.2), derive(3))
    assert loss(both, questions) < loss(begun, questions)


def test_what_has_no_scales_is_not_tried_gently() -> None:
    begun = released(codes_only())
    gentle = Knockoff(steps=5, ways=("gentle",))
    assert best_copy(begun, asked(100), gentle, derive(2)) is begun


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


def test_whoever_sees_fixed_last_layers_may_ignore_them() -> None:
    """His own first layers below fixed ones may be worse than a black box; he is never knowingly below it."""
    attack = theft(knockoff=QUICK)
    questions, told = attack.questions(100), attack.answers()
    black_box = attack.curve({}, [100], questions=questions, told=told).points[0]
    seen = view_under(case().deployed, rules.build("first-k:k=3"))
    free = attack.curve(seen, [100], questions=questions, told=told).points[0]
    assert free.ahead_of(black_box).high >= 0


def test_codes_of_a_public_layer_are_the_public_layer() -> None:
    """TEESlice's backbone: nothing of it is hidden from whoever has the public model, not the scales either."""
    known = folded(case().net, case().pool.take(1).all()[0])
    seen = view_under(case().deployed, rules.build("tsqp"))
    for name, layer in seen.items():
        found = recognised(layer, known[name])
        assert found.scale is not None
        assert torch.allclose(found.scale, case().deployed.get_submodule(name).weight_scale, rtol=1e-2)
        assert torch.equal(found.bias, known[name].bias)
        moved = dataclasses.replace(known[name], weight=known[name].weight * (1 + 0.05 * noise(known[name].weight)))
        assert recognised(layer, moved) is layer  # a fine-tuned layer is not the public one
        assert recognised(layer, None) is layer
    curve = theft().curve(seen, [0], public=case().net)
    assert curve.hidden == 0
    assert curve.points[0].fidelity.value > 0.97


def noise(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def test_a_private_last_layer_on_public_features_is_soon_learned() -> None:
    """Few hidden weights take a rate that would wreck many."""
    found = case()
    private = copy.deepcopy(found.net)
    with torch.no_grad():
        private.fc.weight.copy_(noise(private.fc.weight))
    victim = export(private, found.own.example[None], found.own.take(128))
    seen = {name: layer for name, layer in view_under(victim, rules.build("tsqp")).items() if name != "fc"}
    questions = theft(victim=victim).questions(200)
    begun = surrogate(private, seen, found.pool.take(64).all()[0], derive(0), public=found.net)
    fit, aside = questions.parted(0.2)
    slow, rushed = (best_copy(begun, fit, Knockoff(steps=60, ways=(way,), aside=0), derive(1)) for way in WAYS)
    assert loss(rushed, aside) < loss(slow, aside) - 0.1
    assert loss(best_copy(begun, questions, Knockoff(steps=60), derive(1)), aside) == pytest.approx(loss(rushed, aside))
