"""Adversarial bit errors on another device: a step makes the CPU's bits there, and leaves nothing on the wrong one.

The device is :mod:`tests.away`, which computes as the CPU does and refuses what a GPU refuses.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.away import AWAY, away
from torch import Tensor, nn

from holdfast.data import Dataset, dataset
from holdfast.faults.adversarial import Attack, Budget, attack, attacks, objectives
from holdfast.models import build_architecture
from holdfast.numerics import bits
from holdfast.quantization import placed, quantize
from holdfast.seeds import derive
from holdfast.training import AdversarialBitErrorTraining, RandomBitErrorTraining, Recipe
from holdfast.training.loop import _step
from holdfast.training.state import State

ADVERSARIAL: dict[str, Recipe] = {
    "plain": AdversarialBitErrorTraining(bits=6, start="always", iterations=3),
    "restarts": AdversarialBitErrorTraining(bits=6, start="always", iterations=1, restarts=3, mixed=True),
    "codes": AdversarialBitErrorTraining(
        format="int8", bits=6, start="always", iterations=2, norm="sign", rank="codes", combine="sum"
    ),
    "l2": AdversarialBitErrorTraining(
        format="rquant4", bits=6, start="always", iterations=2, norm="l2", per_layer=True, keep="ascent", layers="conv*"
    ),
    "floats": AdversarialBitErrorTraining(
        format="bf16", bits=6, start="always", iterations=2, relative=False, gradient_clip=None
    ),
    "by-chance": RandomBitErrorTraining(rate=0.02, start="always", chips=2),
    "one-pattern": RandomBitErrorTraining(rate=0.02, start="always", pattern=3),
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="train").take(96)


@pytest.fixture
def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0).train()


def stepped(recipe: Recipe, net: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[float, float | None]:
    """Take two steps; return what the last one lost, and what it lost under flips."""
    state = State.fresh(net, recipe.schedule)
    for number in range(2):
        state.loss = _step(recipe, state, *batch, derive(number, "faults"))
    return float(state.loss), getattr(state.loss, "perturbed", None)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_step_there_ends_in_the_weights_of_one_here(name: str, net: nn.Module, digits: Dataset) -> None:
    recipe, here = ADVERSARIAL[name], copy.deepcopy(net)
    batch = digits.batch(torch.arange(48))
    expected = stepped(recipe, here, batch)
    with away() as device:
        there = copy.deepcopy(net).to(device)
        found = stepped(recipe, there, (batch[0].to(device), batch[1].to(device)))
        assert {value.device for value in there.state_dict().values()} == {AWAY}
        values = {key: value.cpu() for key, value in there.state_dict().items()}
    assert found == expected
    assert found[1] is not None
    assert not math.isclose(*found)
    assert all(bits.bit_equal(value, values[key]) for key, value in here.state_dict().items())
    assert not all(bits.bit_equal(value, values[key]) for key, value in net.state_dict().items())


METHODS = ["projected-gradient:iterations=2,restarts=2", "random-bits:restarts=2", "progressive-bit-search:top=4"]
SEARCHES = [(method, "untargeted", rows) for method in METHODS for rows in (None, 1)]
SEARCHES += [("progressive-bit-search:top=4", "targeted:label=8,source=3,stealth=1", None)]
SEARCHES += [("bit-trojan:shape_steps=2,tune_steps=2", "trojan:label=2", None)]


@pytest.mark.parametrize(("method", "aim", "rows"), SEARCHES)
def test_an_attack_there_finds_the_flips_of_one_here(
    method: str, aim: str, rows: int | None, net: nn.Module, digits: Dataset
) -> None:
    """Data of the CPU are put beside the model."""
    search: Attack = attacks.build(method)
    budget, small = Budget(bits=3, rows=rows, row_bytes=64), quantize(net.eval(), "int8")
    options = {"images": 32, "objective": objectives.build(aim)}
    expected = attack(small, digits, search, budget, **options)
    with away() as device, placed(small, device):
        found = attack(small, digits, search, budget, **options)
    assert found.fault == expected.fault
    assert (found.score, found.attacked, found.success) == (expected.score, expected.attacked, expected.success)
    assert 1 <= found.bits <= 3
