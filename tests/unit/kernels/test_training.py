"""Training on the device: the memory of a step is the reference's to the bit, and nothing of it visits the host."""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast._kernels import device as devices
from holdfast.data import Dataset, dataset
from holdfast.models import build_architecture
from holdfast.numerics import bits
from holdfast.numerics.formats import FixedPoint
from holdfast.seeds import derive
from holdfast.training import (
    AdversarialBitErrorTraining,
    Alternating,
    RandomBitErrorTraining,
    Recipe,
    Standard,
    train,
)
from holdfast.training.loop import _step
from holdfast.training.recipes import Schedule
from holdfast.training.recipes import resident as resident_codes
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import trainable
from holdfast.training.state import State

OPEN = RandomBitErrorTraining(rate=0.05, clip=0.1, start="always")
ATTACKED = AdversarialBitErrorTraining(bits=6, clip=0.1, start="always", iterations=3)


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What was logged once may be logged again in the next test."""
    resident_codes._say.cache_clear()
    yield
    resident_codes._say.cache_clear()


@pytest.fixture
def net(resident: torch.device) -> nn.Module:
    return build_architecture("digits-cnn:channels=2", seed=0).train().to(resident)


def reference(format: str, net: nn.Module) -> Memory:
    """Return the memory that torch makes on the CPU."""
    known, devices.KINDS[:] = list(devices.KINDS), []
    try:
        return Memory.of(format, {name: value.detach().cpu() for name, value in trainable(net).items()})
    finally:
        devices.KINDS[:] = known


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(bits.bit_equal(one[name].cpu(), other[name]) for name in one)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("rquant2", "rquant3", "int8", "int4", "normal8")]


@pytest.mark.parametrize("format", ["rquant8", "rquant4", *SLOW])
def test_the_memory_of_a_step_is_the_reference_s(net: nn.Module, format: str) -> None:
    here, there = reference(format, net), Memory.of(format, trainable(net))
    assert here.resident is None
    assert there.resident is not None
    assert bits.bit_equal(there.flat.cpu(), here.flat)
    assert same(dict(there.clean), dict(here.clean))
    for name, item in there.encoded.items():
        assert bits.bit_equal(item.codes.cpu(), here.encoded[name].codes)
        for key, value in item.qparams.items():
            assert bits.bit_equal(value.cpu(), here.encoded[name].qparams[key])


@pytest.mark.parametrize("rates", [(0.01,), pytest.param((1e-3, 0.1), marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["rquant8", pytest.param("rquant4", marks=pytest.mark.slow), *SLOW])
def test_chips_of_a_step_are_the_reference_s(net: nn.Module, format: str, rates: tuple[float, ...]) -> None:
    here, there = reference(format, net), Memory.of(format, trainable(net))
    for number, rate in enumerate(rates):
        expected = here.with_errors(rate, derive(number, "chip"))
        assert same(there.with_errors(rate, derive(number, "chip")), expected)
        assert not same(there.with_errors(rate, derive(9, "chip")), expected)
    assert same(there.with_pattern(0.02, 7), here.with_pattern(0.02, 7))
    assert bits.bit_equal(there.flat.cpu(), here.flat)


def test_rates_of_none_and_all(net: nn.Module) -> None:
    here, there = reference("rquant4", net), Memory.of("rquant4", trainable(net))
    assert same(there.with_errors(0.0, derive(0)), dict(here.clean))
    assert same(there.with_errors(1.0, derive(0)), here.with_errors(1.0, derive(0)))


def test_operands_begin_where_libraries_are_fast(net: nn.Module) -> None:
    for value in Memory.of("rquant8", trainable(net)).clean.values():
        assert value.data_ptr() % 16 == 0
        assert value.is_contiguous()


def moved(weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return other values, some far outside of the range of these."""
    noise = torch.Generator().manual_seed(seed)
    far = {name: 3 * float(value.abs().max()) for name, value in weights.items()}
    return {
        name: value.detach() + far[name] * torch.randn(value.shape, generator=noise).to(value) ** 3
        for name, value in weights.items()
    }


@pytest.mark.parametrize("format", ["rquant8", "normal8", *SLOW[:-1], pytest.param("rquant4", marks=pytest.mark.slow)])
def test_what_moved_is_encoded_in_the_ranges_of_the_step(net: nn.Module, format: str) -> None:
    here, there = reference(format, net), Memory.of(format, trainable(net))
    assert there.resident is not None
    chosen = {name: value for name, value in trainable(net).items() if "conv" in name}
    for seed, weights in enumerate((chosen, dict(trainable(net)))):
        values = moved(weights, seed)
        found = there.resident.recoded(values)
        assert found is not None
        assert list(found) == list(values)
        for name, codes in found.items():
            expected = here.format.encode(values[name].cpu(), here.encoded[name].qparams).codes
            assert bits.bit_equal(codes.cpu(), expected)
        first = next(iter(found))
        assert not bits.bit_equal(found[first].cpu(), here.encoded[first].codes)


def test_what_moved_beyond_all_numbers_is_refused_as_on_a_cpu(net: nn.Module) -> None:
    there = Memory.of("rquant8", trainable(net))
    assert there.resident is not None
    values = moved(dict(trainable(net)), 0)
    next(iter(values.values())).view(-1)[3] = math.inf
    assert there.resident.recoded(values) is None


def test_flips_of_an_attack_are_those_of_the_reference(net: nn.Module, digits: Dataset) -> None:
    batch = digits.batch(torch.arange(32))
    here, there = reference("rquant8", net), Memory.of("rquant8", trainable(net))
    known, devices.KINDS[:] = list(devices.KINDS), []
    try:
        expected = ATTACKED.attacked(copy.deepcopy(net).cpu(), here, batch, derive(1)).flips
    finally:
        devices.KINDS[:] = known
    victim = ATTACKED.attacked(net, there, tuple(item.to(net.fc.weight.device) for item in batch), derive(1))
    assert same(dict(there.clean), dict(here.clean)) or torch.cuda.is_available()  # whose sums are others
    assert [item.site.name for item in victim.flips] == [item.site.name for item in expected]
    victim.restore()
    assert same(dict(there.clean), dict(Memory.of("rquant8", trainable(net)).clean))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return dataset("digits", split="train").take(96)


def trained(recipe: Recipe, digits: Dataset, device: torch.device) -> dict[str, Tensor]:
    from holdfast.training import Compute

    start = build_architecture("digits-cnn:channels=2", seed=0)
    return train(start, digits, recipe, seed=3, compute=Compute(device=device.type)).state_dict()


SCHEDULE = Schedule(epochs=1, batch_size=48, lr=0.05)
RECIPES: list[Recipe] = [
    replace(OPEN, schedule=SCHEDULE, chips=2, mixed=True),
    Standard(format="rquant4", clip=0.2, clip_scope="learned", schedule=SCHEDULE),
    Alternating(rate=0.02, start="always", schedule=SCHEDULE),
    replace(OPEN, schedule=SCHEDULE, pattern=5, statistics="both", format="int8"),
    replace(ATTACKED, schedule=SCHEDULE, restarts=2, format="rquant4", layers="conv*"),
]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's sums differ from a CPU's in their last bits")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_a_training_by_kernels_gives_the_reference_s_weights(
    resident: torch.device, digits: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trained(recipe, digits, resident)
    monkeypatch.setattr(devices, "KINDS", [])
    expected = trained(recipe, digits, resident)
    assert all(bits.bit_equal(value, expected[name]) for name, value in found.items())


READS = ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the package reads of tensors on the host: how, and how many numbers."""
    seen: list[tuple[str, int]] = []

    def spied(name: str) -> Any:
        plain = getattr(Tensor, name)

        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if "/holdfast/" in sys._getframe(1).f_code.co_filename:
                seen.append((name, self.numel()))
            return plain(self, *args, **kwargs)

        return read

    for name in READS:
        monkeypatch.setattr(Tensor, name, spied(name))
    return seen


@pytest.mark.parametrize("recipe", [OPEN, Standard(format="rquant8", clip=0.1)], ids=["errors", "plain"])
def test_a_step_reads_a_few_numbers_and_no_weights(
    net: nn.Module, digits: Dataset, recipe: Recipe, reads: list[tuple[str, int]]
) -> None:
    images, labels = digits.to(next(net.parameters()).device).batch(torch.arange(16))
    state = State.fresh(net, recipe.schedule)
    reads.clear()
    before = [value.detach().clone() for value in net.parameters()]
    state.loss = _step(recipe, state, images, labels, derive(0, "faults"))
    assert math.isfinite(state.loss)
    assert not all(torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))
    assert {name for name, _ in reads} <= {"tolist", "__bool__"}
    assert sum(count for _, count in reads) <= 6
    assert len(reads) <= 2


def test_an_attack_reads_its_choices_and_no_weights(
    net: nn.Module, digits: Dataset, reads: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an iteration: the score, whether all is finite, two numbers a tensor, and nothing longer than that."""
    images, labels = digits.to(next(net.parameters()).device).batch(torch.arange(16))
    state, tensors = State.fresh(net, ATTACKED.schedule), len(trainable(net))
    monkeypatch.setattr(FixedPoint, "encode", lambda *_: pytest.fail("encoded by the reference"))
    monkeypatch.setattr(FixedPoint, "decode_at", lambda *_: pytest.fail("decoded by the reference"))
    reads.clear()
    state.loss = _step(ATTACKED, state, images, labels, derive(0, "faults"))
    assert math.isfinite(state.loss)
    assert state.loss.perturbed > state.loss  # type: ignore[attr-defined]
    assert {name for name, _ in reads} <= {"tolist", "__bool__", "__float__"}
    assert max(count for _, count in reads) <= max(4, tensors)
    assert len(reads) <= 2 + 4 * (ATTACKED.iterations + 1)


def test_a_format_that_kernels_do_not_know_is_named_once(net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="holdfast.training"):
        for _ in range(2):
            memory = Memory.of("mxint8", trainable(net))
            Memory.of("rquant8", trainable(net))
    assert memory.resident is None
    assert memory.with_errors(0.01, derive(0)).keys() == memory.clean.keys()
    assert [(record.levelname, "reference: " in record.message) for record in caplog.records] == [
        ("WARNING", True),
        ("INFO", False),
    ]


def test_kernels_that_do_not_compile_leave_the_work_to_the_reference(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from triton.errors import TritonError

    from holdfast._kernels.codes import Codes

    def fails(*_: object) -> Tensor:
        raise TritonError("out of resource: registers")

    here, there = reference("rquant8", net), Memory.of("rquant8", trainable(net))
    monkeypatch.setattr(Codes, "values", fails)
    assert same(there.with_errors(0.01, derive(2)), here.with_errors(0.01, derive(2)))
    assert "out of resource: registers" in caplog.text
    assert Memory.of("rquant8", trainable(net)).resident is None


def test_weights_that_no_format_holds_are_refused_as_on_a_cpu(net: nn.Module) -> None:
    from holdfast.errors import UnsupportedFormat

    with torch.no_grad():
        next(net.parameters()).view(-1)[3] = math.nan
    with pytest.raises(UnsupportedFormat, match="cannot hold NaN"):
        Memory.of("rquant8", trainable(net))


def test_a_data_set_on_a_device_is_the_same_data_set(resident: torch.device, digits: Dataset) -> None:
    there = digits.to(resident)
    assert there.raw.device.type == resident.type
    assert there.digest == digits.digest
    for one, other in zip(there.batch(torch.arange(9)), digits.batch(torch.arange(9)), strict=True):
        assert torch.equal(one.cpu(), other)


class Crossing(TorchDispatchMode):
    """Notes what moves from a GPU to the host, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_cuda:
            self.moved.append(1)
        elif isinstance(found, Tensor) and not found.is_cuda:
            self.moved += [item.numel() for item in args if isinstance(item, Tensor) and item.is_cuda]
        return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.01])
def test_on_a_gpu_a_step_of_a_large_net_moves_a_few_numbers(resident: torch.device, rate: float) -> None:
    net = build_architecture("simplenet:channels=64,norm=regn,whitening=true", seed=0).to(resident).train()
    here, there = reference("rquant8", net), Memory.of("rquant8", trainable(net))
    assert same(dict(there.clean), dict(here.clean))
    assert same(there.with_errors(rate, derive(1, "chip")), here.with_errors(rate, derive(1, "chip")))
    recipe = replace(OPEN, rate=rate)
    state = State.fresh(net, recipe.schedule)
    images, labels = torch.rand(16, 3, 32, 32, device=resident), torch.arange(16, device=resident) % 10
    with Crossing() as crossing:
        state.loss = _step(recipe, state, images, labels, derive(0, "faults"))
    assert math.isfinite(state.loss)
    assert sum(crossing.moved) <= 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_on_a_gpu_kernels_train_as_the_reference_does_there(
    resident: torch.device, digits: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    found = trained(recipe, digits, resident)
    monkeypatch.setattr(devices, "KINDS", [])
    expected = trained(recipe, digits, resident)
    assert all(torch.allclose(value, expected[name], atol=1e-4) for name, value in found.items())
