"""Training with bit errors: every knob against plain autograd at the weights that the errors leave."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution import inject
from holdfast.execution.condition import Population
from holdfast.faults import BitErrors
from holdfast.models import build_architecture, card
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.quantization import quantize
from holdfast.seeds import derive
from holdfast.training import Alternating, RandomBitErrorTraining, Standard, recipes, train
from holdfast.training.recipes import Loss, Schedule
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import trainable
from holdfast.training.recipes.start import ramped, started

Batch = tuple[Tensor, Tensor]
OPEN = RandomBitErrorTraining(rate=0.05, gradient_clip=None, start="always")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="train")


@pytest.fixture
def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0).train()


@pytest.fixture
def batch(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.batch(torch.arange(32))


def close(one: list[Tensor], other: list[Tensor], atol: float = 1e-6) -> bool:
    return all(torch.allclose(a, b, atol=atol, rtol=1e-5) for a, b in zip(one, other, strict=True))


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def autograd(net: nn.Module, batch: Batch, *values: dict[str, Tensor], sum_: bool = False) -> list[Tensor]:
    """Differentiate the mean of the losses at several weights, moved together, by one backward pass."""
    shift = {name: torch.zeros_like(value, requires_grad=True) for name, value in values[0].items()}
    frozen = {name: value.clone() for name, value in net.named_buffers()}
    losses = []
    for each in values:
        moved = {name: each[name] + shift[name] for name in each}
        outputs = functional_call(net, {**moved, **{key: value.clone() for key, value in frozen.items()}}, (batch[0],))
        losses.append(cross_entropy(outputs, batch[1]))
    total = torch.stack(losses)
    return list(torch.autograd.grad(total.sum() if sum_ else total.mean(), list(shift.values())))


@pytest.mark.parametrize("format", ["rquant8", "rquant4", "int8", "fixed-point:bits=3,symmetric=false"])
@pytest.mark.parametrize("chips", [1, 3])
@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_the_gradient_is_that_of_the_combined_loss(
    net: nn.Module, batch: Batch, format: str, chips: int, combine: str
) -> None:
    recipe = replace(OPEN, format=format, chips=chips, combine=combine)
    memory, seed = Memory.of(format, trainable(net)), derive(1)
    faulty = [memory.with_errors(0.05, derive(seed, chip) if chip else seed) for chip in range(chips)]
    expected = autograd(net, batch, memory.clean, *faulty, sum_=combine == "sum")
    _, found = recipe.gradients(net, *batch, seed, math.inf)
    assert close(found, expected)
    assert not close(found, autograd(net, batch, memory.clean), atol=1e-4)


def test_a_rate_of_zero_is_quantisation_aware_training_to_the_bit(net: nn.Module, digits: Dataset) -> None:
    schedule = Schedule(epochs=2, batch_size=64, lr=0.1)
    plain = train(net, digits.take(300), Standard(format="rquant8", clip=0.1, schedule=schedule))
    for knobs in ({}, {"combine": "sum"}, {"chips": 4}, {"gradient_clip": None, "start": "once"}):
        recipe = RandomBitErrorTraining(rate=0.0, schedule=schedule, **knobs)
        zero = train(net, digits.take(300), recipe)
        assert all(bits.bit_equal(value, zero.state_dict()[key]) for key, value in plain.state_dict().items())


def test_a_rate_of_zero_computes_what_no_flips_give(net: nn.Module, batch: Batch) -> None:
    """Errors too rare to hit anything change nothing either, though their pass is made."""
    rare = replace(OPEN, rate=1e-12)
    loss, found = rare.gradients(net, *batch, derive(1), math.inf)
    assert loss.perturbed == float(loss)
    assert same(found, Standard(format="rquant8").gradients(net, *batch, derive(1), math.inf)[1])


def test_errors_are_those_that_injection_makes(net: nn.Module) -> None:
    small = quantize(net, "rquant4")
    memory = Memory.of("rquant4", trainable(net))
    pattern = memory.with_pattern(0.02, chip=7)
    hit = 0
    with inject(small, BitErrors(rate=0.02), at="weights:**", seed=7) as faulty:
        for name, expected in pattern.items():
            held = weight(faulty, name)
            assert torch.equal(held, expected), name
            hit += int((held != memory.clean[name]).sum())
    assert hit > 20
    assert card(small).lenses.keys() == pattern.keys()


def weight(model: nn.Module, name: str) -> Tensor:
    """Return the weight that ``model`` computes with."""
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute).detach()


def test_the_codes_survive_the_errors(net: nn.Module) -> None:
    memory = Memory.of("rquant8", trainable(net))
    before = memory.flat.clone()
    one = memory.with_errors(0.05, derive(3))
    assert torch.equal(memory.flat, before)
    changed = sum(int((one[name] != memory.clean[name]).sum()) for name in one)
    expected = memory.flat.numel() * (1 - 0.95**8)
    assert abs(changed - expected) < 5 * expected**0.5
    assert not all(torch.equal(one[name], memory.with_errors(0.05, derive(4))[name]) for name in one)
    assert all(torch.equal(one[name], memory.with_errors(0.05, derive(3))[name]) for name in one)


def test_only_hit_weights_are_decoded_and_rightly(net: nn.Module) -> None:
    memory = Memory.of("int8", trainable(net))
    faulty = memory.with_errors(0.01, derive(2))
    again = Memory.of("int8", trainable(net))
    for item in BitErrors(rate=0.01).flips(whole(again), derive(2)):
        bits.xor_(again.flat, item.index, item.mask)
    for name, item in again.encoded.items():
        assert torch.equal(again.format.decode(item), faulty[name])


def whole(memory: Memory) -> Population:
    return Population((Site("weights", "all", tuple(memory.flat.shape), memory.format.name, memory.format.bits),))


def test_a_fixed_pattern_is_one_chip_whatever_the_batch(net: nn.Module, batch: Batch) -> None:
    fixed = replace(OPEN, pattern=7)
    one, two = (fixed.gradients(net, *batch, derive(seed), math.inf)[1] for seed in (1, 2))
    fresh = [OPEN.gradients(net, *batch, derive(seed), math.inf)[1] for seed in (1, 2)]
    # the net's own running statistics move in training mode, but never its batch statistics
    assert same(one, two)
    assert not same(*fresh)


def test_mixed_rates_stay_below_the_rate(net: nn.Module, batch: Batch) -> None:
    recipe = replace(OPEN, mixed=True)
    shares = [recipe._drawn(derive(seed), 0)[1] for seed in range(200)]
    assert 0 <= min(shares) < 0.05
    assert 0.95 < max(shares) < 1
    memory = Memory.of("rquant8", trainable(net))
    faulty = memory.with_errors(0.05 * shares[3], derive(3))
    found = recipe.gradients(net, *batch, derive(3), math.inf)[1]
    assert close(found, autograd(net, batch, memory.clean, faulty))


def test_frozen_parameters_are_neither_moved_nor_hit(net: nn.Module, digits: Dataset) -> None:
    for value in (net.conv1.weight, net.norm2.bias):
        value.requires_grad_(False)
    assert "conv1.weight" not in Memory.of("rquant8", trainable(net)).encoded
    for recipe in (replace(OPEN, clip=0.01), Alternating(start="always", clip=0.01), Standard(clip=0.01)):
        trained = train(net, digits.take(128), replace(recipe, schedule=Schedule(epochs=1)))
        assert torch.equal(trained.conv1.weight, net.conv1.weight)
        assert torch.equal(trained.norm2.bias, net.norm2.bias)
        assert not torch.equal(trained.conv2.weight, net.conv2.weight)


def statistics(net: nn.Module) -> list[Tensor]:
    return [value.clone() for name, value in net.named_buffers() if "running" in name]


def test_running_statistics_come_from_the_pass_that_was_named(batch: Batch) -> None:
    found, steps = {}, {}
    for kind in ("clean", "perturbed", "both"):
        net = build_architecture("digits-cnn:channels=4", seed=0).train()
        replace(OPEN, statistics=kind).gradients(net, *batch, derive(1), math.inf)
        found[kind], steps[kind] = statistics(net), int(net.norm1.num_batches_tracked)
    assert steps == {"clean": 1, "perturbed": 1, "both": 2}
    net = build_architecture("digits-cnn:channels=4", seed=0).train()
    memory = Memory.of("rquant8", trainable(net))
    functional_call(net, memory.clean, (batch[0],))
    assert same(found["clean"], statistics(net))
    functional_call(net, memory.with_errors(0.05, derive(1)), (batch[0],))
    assert same(found["both"], statistics(net))
    waiting = build_architecture("digits-cnn:channels=4", seed=0).train()
    replace(OPEN, statistics="perturbed", start="below").gradients(waiting, *batch, derive(1), math.inf)
    assert same(found["clean"], statistics(waiting))  # nothing was perturbed yet


def test_label_smoothing_spreads_over_all_classes(net: nn.Module, batch: Batch) -> None:
    for recipe in (Standard(label_smoothing=0.1), replace(OPEN, label_smoothing=0.1, rate=0.0, format="fp32")):
        loss, _ = recipe.gradients(net, *batch, derive(1), math.inf)
        logs = net(batch[0]).detach().log_softmax(1)
        target = torch.nn.functional.one_hot(batch[1], 10) * 0.9 + 0.1 / 10
        assert float(loss) == pytest.approx(float(-(target * logs).sum(1).mean()), rel=1e-5)


def test_the_start_rules() -> None:
    nothing, low, high = math.inf, Loss(1.0), Loss(1.9)
    assert [started("below", 1.75, loss) for loss in (nothing, high, low, Loss(1.8, 2.0))] == [
        False,
        False,
        True,
        False,
    ]
    assert [started("once", 1.75, loss) for loss in (nothing, high, low, Loss(1.8, 2.0))] == [False, False, True, True]
    assert [started("always", 1.75, loss) for loss in (nothing, high)] == [True, True]
    # released: loss < 1.15 * 1.75 = 2.0125, and (loss + perturbed) / 2 <= 1.75 with nothing counting as zero
    cases = [(nothing, False), (high, True), (Loss(2.02), False), (Loss(1.0, 2.6), False), (Loss(1.0, 2.5), True)]
    assert [started("released", 1.75, loss) for loss, _ in cases] == [wanted for _, wanted in cases]
    assert started("below", 1.75, 1.0)
    assert started("released", 1.75, 1.0)  # a recipe may return a plain float


def test_the_ramps() -> None:
    released = [ramped("steps", epoch, 250) for epoch in range(250)]
    assert released[:7] == [0.05] * 6 + [0.1]  # (250 / 2) // 20 = 6 epochs each
    assert released.index(1.0) == 19 * 6
    for epochs in (1, 2, 3, 10, 39, 40, 41):
        for ramp in ("steps", "linear"):
            shares = [ramped(ramp, epoch, epochs) for epoch in range(epochs)]
            assert shares == sorted(shares)
            assert shares[-1] == 1.0 or (epochs == 1 and ramp == "steps"), (ramp, epochs)
            assert 0 < shares[0] <= 1
    assert [ramped("linear", epoch, 8) for epoch in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert OPEN.at_epoch(0) == OPEN
    assert replace(OPEN, ramp="steps", schedule=Schedule(epochs=250)).at_epoch(6).rate == pytest.approx(0.005)


def test_alternating_takes_both_steps_and_keeps_the_ranges(net: nn.Module, digits: Dataset) -> None:
    schedule, few = Schedule(epochs=1, batch_size=64, lr=0.1), digits.take(64)
    clean = train(net, few, Standard(format="rquant8", clip=0.1, schedule=schedule))
    both = train(net, few, Alternating(rate=0.05, start="always", schedule=schedule))
    moved = 0
    for name, value in both.named_parameters():
        bounds = clean.get_parameter(name)
        assert value.min() >= bounds.min()
        assert value.max() <= bounds.max()
        moved += int((value != bounds).sum())
    assert moved > 100
    waiting = train(net, few, Alternating(rate=0.05, start_loss=1e-3, schedule=schedule))
    assert all(torch.equal(value, waiting.get_parameter(name)) for name, value in clean.named_parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random-bit-error:rat=0.1", "no option 'rat'"),
        ("random-bit-error:rate=2", "between 0 and 1"),
        ("random-bit-error:rate=nan", "between 0 and 1"),
        ("random-bit-error:rate=much", "not a number"),
        ("random-bit-error:start=later", "start"),
        ("random-bit-error:start_loss=0", "start_loss"),
        ("random-bit-error:combine=max", "combine"),
        ("random-bit-error:chips=0", "one chip or more"),
        ("random-bit-error:pattern=1,chips=2", "fixed pattern"),
        ("random-bit-error:pattern=1,mixed=true", "fixed pattern"),
        ("random-bit-error:clip=none,clip_scope=layer", "bounds nothing"),
        ("random-bit-error:clip=0", "clip must be positive"),
        ("random-bit-error:clip=inf", "clip must be positive"),
        ("random-bit-error:gradient_clip=-1", "gradient_clip must be positive"),
        ("random-bit-error:label_smoothing=1", "label_smoothing"),
        ("random-bit-error:ramp=fast", "ramp"),
        ("random-bit-error:statistics=none", "statistics"),
        ("alternating:chips=2", "no option 'chips'"),
        ("standard:clip_scope=learned", "bounds nothing"),
        ("standard:bound_decay=-1", "bound_decay"),
    ],
)
def test_bad_recipes_say_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        recipes.build(spec)


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="recipe 'random-bit-eror'") as caught:
        recipes.build("random-bit-eror")
    assert "random-bit-error" in caught.value.hint
    with pytest.raises(UnknownName, match="format 'rquant9'"):
        recipes.build("random-bit-error:format=rquant9")
    with pytest.raises(UnknownName, match="format"):
        recipes.build("standard:format=nothing")


def test_specifications_reach_every_knob() -> None:
    built = recipes.build(
        "random-bit-error:rate=0.02,clip=0.05,clip_scope=learned,bound_decay=0.1,gradient_clip=none,start=released,"
        "start_loss=3.5,ramp=steps,combine=sum,chips=2,mixed=yes,statistics=both,label-smoothing=0.1,format=rquant4"
    )
    assert built == RandomBitErrorTraining(
        rate=0.02, clip=0.05, clip_scope="learned", bound_decay=0.1, gradient_clip=None, start="released",
        start_loss=3.5, ramp="steps", combine="sum", chips=2, mixed=True, statistics="both", label_smoothing=0.1,
        format="rquant4",
    )  # fmt: skip
    assert recipes.build("random-bit-error:pattern=3") == RandomBitErrorTraining(pattern=3)
