"""Weight clipping in its three scopes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.models import build_architecture
from holdfast.training import RandomBitErrorTraining, Standard, train
from holdfast.training.recipes import Schedule
from holdfast.training.recipes.clipping import clip_weights, layer_bounds
from holdfast.training.recipes.protocol import BOUNDS, trainable

SHORT = Schedule(epochs=2, batch_size=64, lr=0.1)


@pytest.fixture(scope="module")
def few() -> Dataset:
    return dataset("digits", split="train").take(256)


@pytest.fixture
def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0)


def reach(net: nn.Module) -> dict[str, float]:
    """Return how far each parameter goes from its centre: one for scales of norms, zero otherwise."""
    scales = {"norm1.weight", "norm2.weight", "norm3.weight"}
    return {name: float((value.detach() - int(name in scales)).abs().max()) for name, value in net.named_parameters()}


def test_layer_bounds_follow_each_tensors_range(net: nn.Module) -> None:
    with torch.no_grad():
        net.conv1.weight.fill_(2.0)
        net.fc.weight.fill_(-0.5)
        net.conv2.weight.fill_(0.25)
    bounds = dict(zip(trainable(net), layer_bounds(net, 0.1).tolist(), strict=True))
    assert bounds["conv1.weight"] == pytest.approx(0.1)  # the widest
    assert bounds["fc.weight"] == pytest.approx(0.025)
    assert bounds["conv2.weight"] == pytest.approx(0.0125)
    assert bounds["norm1.bias"] == pytest.approx(0.1)  # zeros have no range of their own
    assert bounds["norm1.weight"] == pytest.approx(0.1)  # all ones: zeros around their centre


def test_every_weight_is_held_by_its_own_bound(net: nn.Module) -> None:
    bounds = layer_bounds(net, 0.1)
    clip_weights(net, bounds)
    assert all(far <= bound * (1 + 1e-5) for far, bound in zip(reach(net).values(), bounds.tolist(), strict=True))
    assert reach(net)["conv1.weight"] == pytest.approx(float(bounds[0]))


@pytest.mark.parametrize("kind", [Standard, RandomBitErrorTraining])
@pytest.mark.parametrize("scope", ["global", "layer", "learned"])
def test_trained_weights_lie_within_and_nothing_is_left_behind(
    net: nn.Module, few: Dataset, kind: type, scope: str
) -> None:
    trained = train(net, few, kind(clip=0.1, clip_scope=scope, schedule=SHORT))
    names = [*trained.state_dict(), *dict(trained.named_parameters())]
    assert set(names) == {*net.state_dict(), *dict(net.named_parameters())}
    if scope == "learned":
        return
    start = layer_bounds(net, 0.1) if scope == "layer" else torch.full((len(trainable(net)),), 0.1)
    for (name, far), bound in zip(reach(trained).items(), start.tolist(), strict=True):
        assert far <= bound * (1 + 1e-4), name


def test_the_gradient_of_a_bound_is_what_the_weights_on_it_ask_for(net: nn.Module) -> None:
    recipe = Standard(clip=0.1, clip_scope="learned", bound_decay=0.5)
    recipe.prepare(net)
    bounds = getattr(net, BOUNDS)
    recipe.project(net)
    for value in trainable(net).values():
        value.grad = torch.zeros_like(value)
    weight = net.conv1.weight
    held = (weight.detach().abs() - bounds[0].detach()).abs() < 1e-6
    assert 0 < int(held.sum()) < weight.numel()
    weight.grad = -weight.detach().sign()  # all of them want to grow
    weight.grad[0] = 100 * weight.detach()[0].sign()  # but these want to shrink, which no bound prevents
    recipe.differentiate(net)
    assert 0 < int(held[1:].sum()) < int(held.sum())
    expected = -float(held[1:].sum()) / weight.numel() ** 0.5 + 0.5 * float(bounds[0].detach())
    assert float(bounds.grad[0]) == pytest.approx(expected, rel=1e-5)
    assert bounds.grad[1:].tolist() == pytest.approx((0.5 * bounds[1:]).tolist())


def test_learned_bounds_grow_where_weights_press_and_shrink_under_the_penalty(net: nn.Module, few: Dataset) -> None:
    def weights(decay: float) -> list[float]:
        recipe = Standard(clip=0.02, clip_scope="learned", bound_decay=decay, schedule=replace(SHORT, epochs=4))
        return [far for name, far in reach(train(net, few, recipe)).items() if "conv" in name or name == "fc.weight"]

    free, held = weights(0.0), weights(1.0)
    assert min(free) > 0.04  # they began at 0.02 or below
    assert all(less < 0.7 * more for less, more in zip(held, free, strict=True))


def test_bounds_must_be_prepared_and_not_be_there_already(net: nn.Module) -> None:
    recipe = Standard(clip=0.1, clip_scope="layer")
    with pytest.raises(InvalidConfig, match="no bounds"):
        recipe.project(net)
    recipe.prepare(net)
    with pytest.raises(InvalidConfig, match=BOUNDS):
        recipe.prepare(net)
    recipe.finish(net)
    assert not hasattr(net, BOUNDS)
    recipe.finish(net)
