"""Faults in gradients and in the memory of optimizers, at a step, in a loop of one's own and in ours."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import TrainingFault, inject_training
from holdfast.faults import BitFlip, Corruption
from holdfast.numerics import bits

STEPS = 5
Make = Callable[[list[Tensor]], torch.optim.Optimizer]


def trained(
    make: Make,
    before: Callable[[nn.Module, torch.optim.Optimizer, int], None] | None = None,
    model: nn.Module | None = None,
) -> list[dict[str, Tensor]]:
    """The weights after each of five steps."""
    torch.manual_seed(0)
    fresh = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model = fresh if model is None else model
    model.load_state_dict(fresh.state_dict())
    optimizer, history = make(list(model.parameters())), []
    for number in range(STEPS):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if before is not None:
            before(model, optimizer, number)
        optimizer.step()
        history.append({name: value.detach().clone() for name, value in model.named_parameters()})
    return history


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(bits.bit_equal(one[name], other[name]) for name in one)


MAKERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_flipped_gradient_is_the_flipped_gradient(name: str) -> None:
    """Injecting is the same as flipping the bit by hand between the backward pass and the step."""
    model = net()
    with inject_training(model, BitFlip(), at="gradients", step=2, seed=7) as seen:
        injected = trained(MAKERS[name], model=model)
    assert seen.steps == STEPS
    ((step, item),) = seen.struck
    assert step == 2

    def by_hand(model: nn.Module, _: torch.optim.Optimizer, number: int) -> None:
        if number == 2:
            bits.xor_(model.get_parameter(item.site.name).grad, item.index, item.mask)

    clean = trained(MAKERS[name])
    assert all(equal(a, b) for a, b in zip(injected, trained(MAKERS[name], by_hand), strict=True))
    assert [equal(a, b) for a, b in zip(injected, clean, strict=True)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("name", "key"), [("sgd", "momentum_buffer"), ("adam", "exp_avg"), ("adam", "exp_avg_sq"), ("adamw", "exp_avg")]
)
def test_a_struck_moment_stays_struck(name: str, key: str) -> None:
    model, law = net(), Corruption(where="row", what="(set:value=3)")
    with inject_training(model, law, at=f"moments:0.weight/{key}", step=3) as seen:
        injected = trained(MAKERS[name], model=model)
    assert [(step, item.site.name) for step, item in seen.struck] == [(3, f"0.weight/{key}")]
    clean = trained(MAKERS[name])
    assert [equal(a, b) for a, b in zip(injected, clean, strict=True)] == [True, True, True, False, False]
    changed = (injected[3]["0.weight"] != clean[3]["0.weight"]).any(1)
    assert changed.sum() == 1  # the row of one output


def test_a_window_strikes_the_same_place_at_every_step() -> None:
    model = net()
    with inject_training(model, BitFlip(), at="gradients:0.*", step=1, last=3, seed=2) as seen:
        trained(MAKERS["sgd"], model=model)
    assert [step for step, _ in seen.struck] == [1, 2, 3]
    assert len({(item.site, int(item.index), int(item.mask)) for _, item in seen.struck}) == 1


def test_the_training_loop_of_holdfast_is_reached_through_its_copy(digits_train: Dataset) -> None:
    from holdfast.models import build_architecture
    from holdfast.training import Standard, train
    from holdfast.training.schedule import Schedule

    model, data = build_architecture("digits-cnn", seed=0), digits_train
    recipe = Standard(schedule=Schedule(epochs=1, batch_size=32))
    clean = train(model, data, recipe, seed=0)
    for at in ("gradients:fc.weight", "moments:fc.weight/momentum_buffer"):
        with inject_training(model, Corruption(where="row", what="(bit-flip:bit=27)"), at=at, step=2) as seen:
            faulty = train(model, data, recipe, seed=0)
        assert seen.steps == 4
        assert [step for step, _ in seen.struck] == [2]
        assert not equal(dict(clean.named_parameters()), dict(faulty.named_parameters()))
    again = train(model, data, recipe, seed=0)
    assert equal(dict(clean.named_parameters()), dict(again.named_parameters()))  # no hook is left


@pytest.fixture
def digits_train() -> Dataset:
    from holdfast.data import dataset

    return dataset("digits", split="train").take(128)


def test_another_models_optimizer_takes_no_part() -> None:
    model, other = net(), nn.Linear(3, 3)
    other(torch.rand(2, 3)).sum().backward()
    before = copy.deepcopy(other.weight.grad)
    with pytest.raises(NoSuchSite, match="took 0 steps"), inject_training(model, BitFlip(), at="gradients", step=0):
        torch.optim.SGD(other.parameters(), 0.0).step()
    assert torch.equal(other.weight.grad, before)


def test_what_is_not_there_is_said() -> None:
    model = net()
    with pytest.raises(NoSuchSite, match="moments"), inject_training(model, BitFlip(), at="moments", step=0):
        trained(MAKERS["adam"], model=model)
    with pytest.raises(NoSuchSite, match="took 5 steps"), inject_training(model, BitFlip(), at="gradients", step=9):
        trained(MAKERS["sgd"], model=model)
    for options in (
        {"step": -1, "at": "gradients"},
        {"step": 2, "last": 1, "at": "gradients"},
        {"step": 1, "last": 2, "at": "moments"},
    ):
        with pytest.raises(InvalidConfig), inject_training(model, BitFlip(), **options):
            pass
    seen = TrainingFault()
    assert seen.steps == 0
