"""AdvBET: the gradients are those at the flips its attack finds, within its budget; and the net withstands attacks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial import ProjectedGradient
from holdfast.faults.adversarial.changes import bits_of
from holdfast.models import build_architecture
from holdfast.numerics import bits
from holdfast.seeds import derive
from holdfast.training import AdversarialBitErrorTraining, Standard, recipes, train
from holdfast.training.recipes import Schedule
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import loss_and_gradients, trainable

ALWAYS = AdversarialBitErrorTraining(bits=6, start="always", gradient_clip=None, iterations=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="train")


@pytest.fixture(scope="module")
def warm(digits: Dataset) -> nn.Module:
    """A net that has learnt a little: an untrained one has nothing to lose."""
    recipe = Standard(schedule=Schedule(epochs=8, lr=0.1, batch_size=64))
    return train(build_architecture("digits-cnn:channels=4", seed=0), digits, recipe)


@pytest.fixture
def net(warm: nn.Module) -> nn.Module:
    return copy.deepcopy(warm).train()


@pytest.fixture
def batch(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.batch(torch.arange(48))


def attacked(
    recipe: AdversarialBitErrorTraining, net: nn.Module, memory: Memory, batch: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """The weights of the second pass of a step; the memory is afterwards what it was."""
    victim = recipe.attacked(net, memory, batch, derive(1))
    found = {name: value.clone() for name, value in memory.clean.items()}
    victim.restore()
    return found


@pytest.mark.parametrize("format", ["rquant8", "int8", "rquant4"])
def test_a_step_flips_at_most_its_budget_and_one_bit_per_weight(
    format: str, net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    recipe = AdversarialBitErrorTraining(format=format, bits=6, iterations=3)
    clean, memory = (Memory.of(format, trainable(net)) for _ in range(2))
    victim = recipe.attacked(net, memory, batch, derive(1))
    assert 1 <= bits_of(victim.flips) <= 6
    for site, place in victim.places.items():
        differing = bits.popcount(clean.encoded[site.name].codes ^ place.codes)
        assert int(differing.max()) <= 1
        assert int(differing.sum()) == sum(len(item.index) for item in victim.flips if item.site == site)


@pytest.mark.parametrize("format", ["rquant8", "rquant4", "bf16"])
def test_flips_go_into_the_memory_of_the_step_and_come_out_again(
    format: str, net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    clean, memory = (Memory.of(format, trainable(net)) for _ in range(2))
    victim = AdversarialBitErrorTraining(format=format, bits=9, iterations=2).attacked(net, memory, batch, derive(1))
    assert bits_of(victim.flips) == bits.hamming_distance(memory.flat, clean.flat) > 0
    for site, place in victim.places.items():  # no copy: what is attacked is the step's own
        assert place.tensor is memory.clean[site.name]
        assert place.codes.data_ptr() == memory.encoded[site.name].codes.data_ptr()
        assert bits.bit_equal(place.tensor, memory.format.decode(memory.encoded[site.name]).float())
    victim.restore()
    assert bits.bit_equal(memory.flat, clean.flat)
    assert all(bits.bit_equal(value, clean.clean[name]) for name, value in memory.clean.items())


def test_layers_that_are_not_attacked_are_decoded_codes_as_well(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    recipe = AdversarialBitErrorTraining(format="rquant4", bits=1, iterations=1, layers="conv1*")
    memory = Memory.of(recipe.format, trainable(net))
    victim = recipe.attacked(net, memory, batch, derive(1))
    victim.restore()
    expected, _ = loss_and_gradients(net, memory.clean, *batch, keep_buffers=True)
    master, _ = loss_and_gradients(net, trainable(net), *batch, keep_buffers=True)
    assert victim.score() == victim.gradients()[0] == float(expected) != float(master)


def test_only_the_named_layers_are_attacked(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    recipe = AdversarialBitErrorTraining(bits=6, iterations=2, layers="conv*")
    memory = Memory.of(recipe.format, trainable(net))
    victim = recipe.attacked(net, memory, batch, derive(1))
    assert {site.name for site in victim.places} == {"conv1.weight", "conv2.weight", "conv3.weight"}
    assert victim.flips
    with pytest.raises(InvalidConfig, match="no trainable parameter"):
        AdversarialBitErrorTraining(layers="none*").attacked(net, memory, batch, derive(1))


def test_the_attacked_loss_is_higher_than_the_clean_one_and_than_random_flips(
    net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    memory = Memory.of(ALWAYS.format, trainable(net))
    size = sum(value.numel() for value in net.parameters())
    chance = [memory.with_errors(6 / (8 * size), derive(number)) for number in range(5)]
    clean, worst, *random = (
        float(loss_and_gradients(net, weights, *batch, keep_buffers=True)[0])
        for weights in (memory.clean, attacked(ALWAYS, net, memory, batch), *chance)
    )
    assert worst > max(clean, *random) + 0.3


def test_gradients_are_the_mean_of_the_clean_and_the_attacked(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    memory = Memory.of(ALWAYS.format, trainable(net))
    both = (memory.clean, attacked(ALWAYS, net, memory, batch))
    parts = [loss_and_gradients(net, weights, *batch, keep_buffers=True) for weights in both]
    loss, found = ALWAYS.gradients(net, *batch, derive(1), math.inf)
    assert (float(loss), loss.perturbed) == (float(parts[0][0]), float(parts[1][0]))
    expected = [(one + other) / 2 for one, other in zip(parts[0][1], parts[1][1], strict=True)]
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(found, expected, strict=True))


def test_the_clean_loss_and_statistics_are_those_of_the_clean_pass(
    net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    other = copy.deepcopy(net)
    loss, _ = ALWAYS.gradients(net, *batch, derive(1), math.inf)
    weights = Memory.of(ALWAYS.format, trainable(other)).clean
    with torch.no_grad():
        expected = cross_entropy(torch.func.functional_call(other, dict(weights), (batch[0],)), batch[1])
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    for (name, one), (_, two) in zip(net.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(one, two), name


def test_flips_begin_when_the_loss_is_low_enough_and_gradients_are_clipped(
    net: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    recipe = AdversarialBitErrorTraining(bits=6, iterations=2, start_loss=1.0, gradient_clip=1e-6)
    clean = Standard(format="rquant8", clip=0.1).gradients(net, *batch, derive(1), math.inf)[1]
    above = recipe.gradients(net, *batch, derive(1), 1.0)
    below = recipe.gradients(net, *batch, derive(1), 0.9)
    assert above[0].perturbed is None
    assert all(torch.equal(a, b) for a, b in zip(clean, above[1], strict=True))
    assert below[0].perturbed > below[0]
    assert all(torch.allclose(a / 2, b, atol=1.1e-6) for a, b in zip(clean, below[1], strict=True))


def test_the_budget_ramps_and_mixes() -> None:
    recipe = AdversarialBitErrorTraining(bits=40, ramp="linear", schedule=Schedule(epochs=10))
    assert [recipe.at_epoch(epoch).bits for epoch in (0, 2, 4, 9)] == [8, 24, 40, 40]
    assert AdversarialBitErrorTraining(bits=3, ramp="steps").at_epoch(0).bits == 1


def test_every_knob_is_an_option_of_the_command_line() -> None:
    spec = "adversarial-bit-error:bits=7,iterations=2,restarts=2,step=0.3,norm=l2,keep=ascent,rank=values,clip=none"
    recipe = recipes.build(spec)
    assert isinstance(recipe, AdversarialBitErrorTraining)
    assert recipe.attack == ProjectedGradient(
        iterations=2, restarts=2, step=0.3, norm="l2", keep="ascent", rank="values"
    )


@pytest.mark.parametrize(
    "wrong",
    [{"bits": 0}, {"iterations": 0}, {"step": 0.0}, {"format": "int88"}, {"start": "later"}, {"combine": "max"}],
)
def test_impossible_knobs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig if "format" not in wrong else ValueError):
        AdversarialBitErrorTraining(**wrong)
