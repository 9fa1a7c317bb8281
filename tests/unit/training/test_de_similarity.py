"""Moving away from public weights."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import accuracy
from holdfast.models import build_architecture
from holdfast.seeds import derive
from holdfast.shielding.graph import export
from holdfast.shielding.theft import overall
from holdfast.training import DeSimilarity, Journal, Standard, train
from holdfast.training.recipes import Schedule, recipes
from holdfast.training.recipes.de_similarity import _encoded, information

TUNING = Schedule(epochs=8, lr=0.05)


@functools.cache
def halves() -> tuple[Dataset, Dataset]:
    return dataset("digits", split="train").split(0.5)


@functools.cache
def public() -> nn.Module:
    torch.set_num_threads(1)
    return train(build_architecture("digits-cnn:channels=8"), halves()[0], Standard(schedule=Schedule(epochs=10)))


def codes_of(net: nn.Module, top_code: int = 127) -> dict[str, torch.Tensor]:
    graph = export(net, halves()[1].example[None], halves()[1].take(64), top_code=top_code)
    return {name: graph.get_submodule(name).codes for name in graph.bounds()}


def weights_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name.removesuffix(".weight"): value.detach() for name, value in net.named_parameters() if value.dim() > 1}


def test_information_is_that_of_the_formula() -> None:
    public = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    own = torch.tensor([[3.0, 4.0], [5.0, 0.0]])  # cosines 0.6 and 0
    assert float(information([own], [public], floor=1e-9)) == pytest.approx(-0.25 * math.log(1 - 0.36), rel=1e-5)
    assert float(information([7.0 * own], [public])) == pytest.approx(float(information([own], [public])))
    assert float(information([public], [public], floor=0.01)) == pytest.approx(-0.5 * math.log(0.01))


def test_its_gradient_is_not_the_constant_zero_of_the_release() -> None:
    net, recipe = build_architecture("digits-cnn:channels=4"), DeSimilarity(format=None, strength=0.5)
    recipe.prepare(net)
    with torch.no_grad():
        for value in net.parameters():
            value += 0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    images, labels = halves()[0].take(16).all()
    _, found = recipe.gradients(net, images, labels, derive(0), math.inf)
    _, plain = DeSimilarity(format=None, strength=0).gradients(net, images, labels, derive(0), math.inf)
    name, number = "conv2.weight", [name for name, _ in net.named_parameters()].index("conv2.weight")
    numeric = torch.zeros(5)
    own = [value.detach().double().clone() for value in net.parameters() if value.dim() > 1]
    started = [net.get_buffer(f"holdfast_public_{k}").double() for k in range(len(own))]
    for place in range(5):
        values = []
        for step in (1e-5, -1e-5):
            own[1].view(-1)[place] += step
            values.append(float(information(own, started)))
            own[1].view(-1)[place] -= step
        numeric[place] = 0.5 * (values[0] - values[1]) / 2e-5
    assert torch.allclose((found[number] - plain[number]).view(-1)[:5], numeric, rtol=0.02, atol=1e-4), name
    assert numeric.abs().max() > 1e-3
    recipe.finish(net)
    assert not [name for name, _ in net.named_buffers() if name.startswith("holdfast")]


@pytest.mark.slow
def test_fine_tuning_ends_further_from_the_public_weights() -> None:
    known, test = weights_of(public()), dataset("digits", split="test")
    found = {}
    for strength in (0.0, 1.0):
        net = train(public(), halves()[1], DeSimilarity(strength=strength, schedule=TUNING))
        found[strength] = overall(codes_of(net), known)[1], accuracy(net, test).value
    (plain, before), (moved, after) = found[0.0], found[1.0]
    assert plain.cosine > 0.9
    assert moved.cosine < plain.cosine - 0.3
    assert moved.rank < plain.rank - 0.3
    assert moved.information < 0.5 * plain.information
    assert after > before - 0.1


def test_a_reduced_range_is_enforced_in_training() -> None:
    x, peak = torch.linspace(-2, 2, 401).requires_grad_(), torch.tensor(1.0)
    y = _encoded(x, peak, 7)
    assert float(peak) == pytest.approx(0.9 + 0.1 * 2)  # moved in place
    codes = y.detach() * 7 / peak
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert sorted(set(codes.round().tolist())) == list(range(-7, 8))
    y.sum().backward()
    assert torch.equal(x.grad, (x.detach().abs() < peak * 7.5 / 7).float())  # what is clamped has no gradient


@pytest.mark.slow
def test_a_reduced_range_is_trained_for() -> None:
    """With five activation codes, what was trained for them computes better in them."""
    test, share = dataset("digits", split="test"), {}
    for top_code in (None, 2):
        net = train(public(), halves()[1], DeSimilarity(strength=0, top_code=top_code, schedule=TUNING))
        share[top_code] = accuracy(export(net, halves()[1].example[None], halves()[1], top_code=2), test).value
    assert share[2] > share[None] + 0.05


def test_a_resumed_training_gives_the_same_bits(tmp_path: Path) -> None:
    recipe = DeSimilarity(top_code=31, schedule=Schedule(epochs=2, lr=0.02))
    few = halves()[1].take(128)
    whole = train(public(), few, recipe)

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    journal = Journal(folder=str(tmp_path / "j"))
    with pytest.raises(KeyboardInterrupt):
        train(public(), few, recipe, journal=journal, progress=stop)
    again = train(public(), few, recipe, journal=Journal(folder=str(tmp_path / "j")))
    assert again.state_dict().keys() == whole.state_dict().keys() == public().state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("spec", ["de-similarity:strength=-1", "de-similarity:floor=0", "de-similarity:top_code=128"])
def test_parameters_out_of_range_are_refused(spec: str) -> None:
    with pytest.raises(InvalidConfig):
        recipes.build(spec)
