"""The loop and its recipes: gradients to the bit, seeds, and nets that really learn."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, UsageError
from holdfast.execution import accuracy
from holdfast.models import build_architecture, card
from holdfast.numerics import bits
from holdfast.quantization import quantize
from holdfast.seeds import derive
from holdfast.training import RandomBitErrorTraining, Recipe, Standard, recipes, train
from holdfast.training.recipes import Schedule
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import trainable

SHORT = Schedule(epochs=1, batch_size=64)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="train")


@pytest.fixture
def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0)


@pytest.fixture
def batch(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.batch(torch.arange(32))


def by_hand(net: nn.Module, values: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(values[name])
    net.zero_grad()
    cross_entropy(net(batch[0]), batch[1]).backward()
    return [parameter.grad for parameter in net.parameters()]


def test_standard_gradients_are_autograds(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    other = build_architecture("digits-cnn:channels=4", seed=0)
    _, found = Standard().gradients(net.train(), *batch, derive(0), math.inf)
    expected = by_hand(other.train(), dict(other.named_parameters()), batch)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_bit_error_gradients_are_the_mean_of_both(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    recipe = RandomBitErrorTraining(rate=0.05, gradient_clip=None, start_loss=10)
    _, found = recipe.gradients(net.train(), *batch, derive(1), 1.0)
    memory = Memory.of("rquant8", trainable(net))
    clean, faulty = memory.clean, memory.with_errors(0.05, derive(1))
    assert any(not torch.equal(clean[name], faulty[name]) for name in clean)
    pair = [
        by_hand(build_architecture("digits-cnn:channels=4", seed=0).train(), values, batch)
        for values in (clean, faulty)
    ]
    assert all(torch.allclose(one, (a + b) / 2, atol=1e-7) for one, a, b in zip(found, *pair, strict=True))


def test_the_perturbed_gradient_is_clipped_and_the_clean_one_is_not(
    net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    recipe = RandomBitErrorTraining(rate=0.05, gradient_clip=1e-6, start_loss=10)
    _, found = recipe.gradients(net.train(), *batch, derive(1), 1.0)
    _, clean = recipe.gradients(net.train(), *batch, derive(1), math.inf)
    assert all(torch.allclose(one, other / 2, atol=1.1e-6) for one, other in zip(found, clean, strict=True))
    assert max(float(one.abs().max()) for one in found) > 1e-3


def test_errors_start_below_the_threshold(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    recipe = RandomBitErrorTraining(rate=0.05, start_loss=1.0)
    clean = recipe.gradients(net.train(), *batch, derive(1), math.inf)[1]
    above = recipe.gradients(net.train(), *batch, derive(1), 1.0)[1]
    below = recipe.gradients(net.train(), *batch, derive(1), 0.99)[1]
    assert all(torch.equal(a, b) for a, b in zip(clean, above, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(clean, below, strict=True))


def test_running_statistics_come_from_the_clean_pass(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    other = build_architecture("digits-cnn:channels=4", seed=0)
    RandomBitErrorTraining(rate=0.05, start_loss=10).gradients(net.train(), *batch, derive(1), 1.0)
    RandomBitErrorTraining(rate=0.05, start_loss=10).gradients(other.train(), *batch, derive(1), math.inf)
    for (name, one), (_, two) in zip(net.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(one, two), name
    assert int(net.get_buffer("norm1.num_batches_tracked")) == 1


def test_gradients_leave_the_master_weights_alone(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    before = [value.detach().clone() for value in net.parameters()]
    RandomBitErrorTraining(start_loss=10).gradients(net.train(), *batch, derive(1), 1.0)
    assert all(bits.bit_equal(a, b.detach()) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", recipes.names())
def test_training_repeats_and_leaves_its_argument(net: nn.Module, digits: Dataset, name: str) -> None:
    recipe = dataclasses.replace(recipes.build(name), schedule=SHORT)  # type: ignore[type-var]
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    one, two, other = (train(net, digits.take(256), recipe, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(bits.bit_equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())
    assert not torch.equal(one.get_parameter("conv1.weight"), other.get_parameter("conv1.weight"))
    assert not one.training
    assert card(one).lineage[-1].parameters["recipe"] == name


@pytest.mark.parametrize("recipe", [Standard(clip=0.1, schedule=SHORT), RandomBitErrorTraining(schedule=SHORT)])
def test_clipped_weights_stay_within_the_bound(net: nn.Module, digits: Dataset, recipe: Recipe) -> None:
    trained = train(net, digits.take(256), recipe)
    for name, value in trained.named_parameters():
        centre = 1 if name.startswith("norm") and name.endswith("weight") else 0
        assert (value - centre).abs().max() <= 0.1 + 1e-7, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [Standard, lambda schedule: RandomBitErrorTraining(rate=0.01, clip=0.2, schedule=schedule)]
)
def test_the_digits_are_learnt(digits: Dataset, kind: object) -> None:
    trained = train(
        build_architecture("digits-cnn", seed=0), digits, kind(schedule=Schedule(epochs=30, lr=0.1, batch_size=64))
    )
    assert accuracy(trained, dataset("digits", split="test")).value >= 0.96


def test_a_diverging_loss_is_named(net: nn.Module, digits: Dataset) -> None:
    with pytest.raises(UsageError, match="epoch 0, batch") as caught:
        train(net, digits.take(256), Standard(schedule=Schedule(epochs=2, lr=1e30, batch_size=32)))
    assert "learning rate" in caught.value.hint


def test_progress_counts_epochs(net: nn.Module, digits: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    schedule = Schedule(epochs=2, batch_size=64)
    train(net, digits.take(64), Standard(schedule=schedule), progress=lambda *args: seen.append(args))
    assert seen == [(1, 2), (2, 2)]


def test_bad_requests(net: nn.Module, digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="at least one epoch"):
        train(net, digits, Standard(schedule=Schedule(epochs=0)))
    with pytest.raises(InvalidConfig, match="float model"):
        train(quantize(net, "int8"), digits, Standard(schedule=SHORT))
    for bad in ({"rate": 1.5}, {"clip": 0.0}, {"gradient_clip": -1.0}):
        with pytest.raises(InvalidConfig):
            RandomBitErrorTraining(**bad)
