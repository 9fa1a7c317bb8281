"""Copies of a victim, from what each placement shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.models import build_architecture
from holdfast.seeds import derive
from holdfast.shielding.planner import rules
from holdfast.shielding.theft import Knockoff, Seen, Theft, folded, surrogate, view, view_under
from holdfast.shielding.theft.transfer import Bandit, ask

from .victims import case

QUICK = Knockoff(steps=60)


def theft(**changed: object) -> Theft:
    found = case()
    made = Theft(victim=found.deployed, architecture=found.net, pool=found.pool, test=found.test, knockoff=QUICK)
    return dataclasses.replace(made, **changed)


def under(rule: str) -> dict[str, Seen]:
    return dict(view_under(case().deployed, rules.build(rule)))


def test_a_view_holds_what_the_placement_shows_and_no_more() -> None:
    layers = set(case().deployed.bounds())
    assert under("whole") == {}
    for rule in ("tsqp", "slalom", "slalom:private=false"):
        seen = under(rule)
        assert seen.keys() == layers
        assert all(layer.scale is None and layer.bias is None for layer in seen.values())
    everything = under("none")
    assert everything.keys() == layers
    assert all(layer.scale is not None and layer.bias is not None for layer in everything.values())
    assert under("last-k:k=1").keys() == layers - {"fc"}
    assert under("first-k:k=1").keys() == layers - {"conv1"}
    with pytest.raises(InvalidConfig, match="no node 'conv9'"):
        view(case().deployed, {"conv9": "exposed"})


def test_without_a_shield_the_copy_is_the_victim_and_needs_no_question() -> None:
    curve = theft().curve(under("none"), [0])
    assert curve.hidden == 0
    assert curve.points[0].fidelity.value >= 0.98  # the copy computes in float32


def test_hidden_scales_are_worth_almost_nothing() -> None:
    """Zero questions and no public model: TSQP's placement, against the black box (specification 7.4)."""
    attack = theft()
    questions, told = attack.questions(20), attack.answers()
    scales = attack.curve(under("tsqp"), [0, 20], questions=questions, told=told)
    black_box = attack.curve(under("whole"), [0, 20], questions=questions, told=told)
    assert scales.hidden < 0.1 * black_box.hidden
    assert scales.points[0].fidelity.low > black_box.points[0].fidelity.high
    assert scales.points[0].fidelity.value > 0.7
    assert scales.points[1].fidelity.low > black_box.points[1].fidelity.high


def test_the_black_box_without_questions_is_chance() -> None:
    attack = theft()
    point = attack.curve({}, [0]).points[0]
    assert point.accuracy.low <= attack.chance().value + 0.1
    assert point.fidelity.value < 0.4


def test_nothing_of_the_victim_survives_in_a_black_box_copy() -> None:
    images, place = case().pool.take(8).all()[0], derive(0, "x")
    mine = surrogate(case().net, {}, images, place)
    other = surrogate(build_architecture("digits-cnn:channels=8", seed=99), {}, images, place)
    for name, value in mine.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
        if name.endswith("weight") and "norm" not in name:
            pair = torch.stack([value.flatten(), case().net.state_dict()[name].flatten()])
            assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.5


def test_parameters_that_cannot_be_drawn_afresh_are_refused() -> None:
    class Secretive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.own = nn.Linear(64, 10), nn.Parameter(torch.ones(10))

    with pytest.raises(InvalidConfig, match="cannot draw its parameters afresh"):
        surrogate(Secretive(), {}, torch.zeros(2, 64), derive(0))


def test_a_public_model_gives_its_weights_and_scales() -> None:
    """The victim's own float model as public prior: fitted scales are the hidden ones, up to rounding."""
    found = case()
    images = found.pool.take(500).all()[0]
    copy = surrogate(found.net, under("tsqp"), images, derive(0), public=found.net)
    for name, layer in found.deployed.named_modules():
        if name in under("tsqp"):  # before a normalisation, from statistics of other images than the victim's
            fit = copy.get_submodule(name).log_scale.exp()
            assert torch.allclose(fit, layer.weight_scale, rtol=0.02 if name == "fc" else 0.2)
    point = theft().curve(under("tsqp"), [0], public=found.net).points[0]
    assert point.fidelity.value >= 0.9
    assert theft().curve({}, [0], public=found.net).points[0].fidelity.value >= 0.97


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    net.train()(torch.randn(32, 1, 8, 8))
    x = torch.randn(5, 1, 8, 8)
    found = folded(net, x)
    y = torch.conv2d(x, found["0"].weight, found["0"].bias).relu().flatten(1) @ found["4"].weight.T + found["4"].bias
    assert torch.allclose(y, net.eval()(x), atol=1e-5)


def test_smaller_budgets_are_beginnings_of_larger_ones() -> None:
    found = case()
    for strategy in ("random", "adaptive"):
        small, large = (ask(found.deployed, found.pool, n, derive(3), strategy=strategy) for n in (16, 48))
        assert torch.equal(large.first(16).images, small.images)
        assert torch.allclose(large.answers.sum(1), torch.ones(48))
        assert len({image.numpy().tobytes() for image in large.images}) > 40  # no image twice, up to equal images
    labels = ask(found.deployed, found.pool, 16, derive(3), answers="labels").answers
    assert set(labels.flatten().tolist()) == {0.0, 1.0}


def test_the_bandit_goes_where_answers_are_certain() -> None:
    bandit, generator = Bandit(3), np.random.default_rng(0)
    left = [list(range(1000)) for _ in range(3)]
    flat, sure = torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])
    chosen = []
    for _ in range(300):
        action = bandit.choose(left, generator)
        chosen.append(action)
        bandit.learn(action, sure if action == 2 else flat)
    assert chosen[150:].count(2) > 80


def test_a_judge_that_the_attacker_has_asked_about_is_refused() -> None:
    found = case()
    with pytest.raises(InvalidConfig, match="share an image"):
        theft(pool=found.pool.subset([0, 1]), test=found.pool.subset([1, 2]))
    with pytest.raises(InvalidConfig, match="questions need as many images"):
        theft().questions(10_000)
    with pytest.raises(InvalidConfig):
        Knockoff(strategy="psychic")  # type: ignore[arg-type]
