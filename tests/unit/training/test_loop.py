"""The loop: separate streams, averages, precision, and what happens when a training goes wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, dataset
from holdfast.data.augmentation import Chain, HorizontalFlip, RandomCrop
from holdfast.errors import InvalidConfig, MissingDevice, MissingExtra, UsageError
from holdfast.models import build_architecture, card, load, save
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive
from holdfast.training import Compute, Journal, RandomBitErrorTraining, Standard, train
from holdfast.training.recipes import Loss, Schedule

SHORT = Schedule(epochs=2, batch_size=64, lr=0.1)


@pytest.fixture(scope="module")
def few() -> Dataset:
    return dataset("digits", split="train").take(512)


@pytest.fixture
def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(bits.bit_equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


class Watched(Standard):
    """Standard training that remembers what it was given."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule=schedule)
        object.__setattr__(self, "seen", [])

    def gradients(
        self, model: nn.Module, images: Tensor, labels: Tensor, seed: Seed, last_loss: float
    ) -> tuple[Loss, list[Tensor]]:
        self.seen.append((labels.tolist(), images.clone(), seed, torch.rand(1).item()))  # type: ignore[attr-defined]
        return super().gradients(model, images, labels, seed, last_loss)


@pytest.fixture
def streams(net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    from holdfast.training import loop

    monkeypatch.setattr(loop.recipes, "name_of", lambda kind: "watched")

    def run(**options: object) -> list[tuple[list[int], Tensor, Seed, float]]:
        recipe = Watched(SHORT)
        train(net, few, recipe, **options)
        return recipe.seen  # type: ignore[attr-defined,no-any-return]

    return run


def test_streams_are_separate_and_keyed_by_place(streams) -> None:  # type: ignore[no-untyped-def]
    plain = streams(seed=3)
    assert len({str(order) for order, *_ in plain}) == len(plain) == 16
    assert [seed for _, _, seed, _ in plain] == [derive(3, "faults", e, b) for e in (0, 1) for b in range(8)]
    assert len({layers for *_, layers in plain}) == 16
    calls: list[Seed] = []

    def augment(images: Tensor, seed: Seed) -> Tensor:
        calls.append(seed)
        torch.rand(100)  # an augmentation that misbehaves takes nothing from the other streams
        return images + 1

    augmented = streams(seed=3, augment=augment)
    assert calls == [derive(3, "augment", e, b) for e in (0, 1) for b in range(8)]
    assert [order for order, *_ in augmented] == [order for order, *_ in plain]
    assert [place[2:] for place in augmented] == [place[2:] for place in plain]
    assert all(torch.equal(a[1], b[1] + 1) for a, b in zip(augmented, plain, strict=True))
    other = streams(seed=4)
    assert [order for order, *_ in other] != [order for order, *_ in plain]


def test_the_callers_generator_is_neither_used_nor_moved(few: Dataset) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    recipe = Standard(schedule=SHORT)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = train(net, few, recipe)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(one, train(net, few, recipe))
    assert not same(one, train(net, few, recipe, seed=1))


def test_the_average_follows_its_definition(few: Dataset) -> None:
    """Seven steps by hand: each of a training one epoch longer, so the plain runs give every set of weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    schedule = Schedule(epochs=7, batch_size=512, lr=0.1, decay="constant", ema=0.75)
    averaged = train(net, few, Standard(schedule=schedule)).state_dict()
    expected = {key: value.clone() for key, value in net.state_dict().items()}
    for epochs in range(1, 8):
        plain = train(net, few, Standard(schedule=replace(schedule, epochs=epochs, ema=None)))
        for key, value in plain.state_dict().items():
            expected[key] = 0.75 * expected[key] + 0.25 * value if value.is_floating_point() else value
    assert all(torch.allclose(averaged[key], value, atol=1e-6) for key, value in expected.items())
    assert not torch.allclose(averaged["1.weight"], plain.state_dict()["1.weight"], atol=1e-3)
    assert int(averaged["2.num_batches_tracked"]) == 7


def test_averages_are_clipped_too(net: nn.Module, few: Dataset) -> None:
    trained = train(net, few, Standard(clip=0.05, schedule=replace(SHORT, ema=0.9)))
    assert float(trained.get_parameter("conv2.weight").detach().abs().max()) <= 0.05 + 1e-8


def test_metrics_say_what_happened(few: Dataset, tmp_path: Path) -> None:
    net = build_architecture("digits-cnn", seed=0)
    schedule = Schedule(epochs=6, batch_size=32, lr=0.1)
    recipe = RandomBitErrorTraining(rate=0.01, start_loss=1.5, clip=0.5, schedule=schedule)
    trained = train(net, few, recipe, journal=Journal(folder=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(6))
    assert [line["lr"] for line in lines] == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-4])
    assert lines[0]["perturbed"] is None or lines[0]["loss"] > 1.5
    assert lines[-1]["perturbed"] > 0
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["error"] < lines[0]["error"] <= 1
    images, labels = few.all()
    error = float((trained(images).argmax(1) != labels).float().mean())
    assert lines[-1]["error"] == pytest.approx(error, abs=0.08)


@dataclass
class Diverging:
    """An augmentation whose images become NaN in one batch; it is called the same whichever that is."""

    at: int = field(repr=False)
    calls: int = field(default=0, repr=False)

    def __call__(self, images: Tensor, seed: Seed) -> Tensor:
        self.calls += 1
        return images * math.nan if self.calls == self.at else images


def brighter(images: Tensor, seed: Seed, by: float = 0.5) -> Tensor:
    return images + by


def factory(by: float) -> Callable[[Tensor, Seed], Tensor]:
    return lambda images, seed: images + by


def test_a_nan_loss_stops_and_keeps_the_last_snapshot(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    recipe = Standard(schedule=replace(SHORT, epochs=3))
    with pytest.raises(UsageError, match="loss became nan in epoch 1, batch 3") as caught:
        train(net, few, recipe, augment=Diverging(12), journal=Journal(folder=tmp_path))
    assert caught.value.hint == "lower the learning rate; snapshots of the epochs before are whole"
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["snapshot-000001.safetensors"]
    resumed = train(net, few, recipe, augment=Diverging(-1), journal=Journal(folder=tmp_path))
    assert all(torch.isfinite(value).all() for value in resumed.state_dict().values())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_weights_that_overflow_are_named_before_they_are_quantised(net: nn.Module, few: Dataset) -> None:
    for recipe in (Standard(format="rquant8"), RandomBitErrorTraining(clip=None, gradient_clip=None)):
        wild = replace(recipe, schedule=Schedule(epochs=2, lr=1e38, batch_size=32))
        with pytest.raises(UsageError, match=r"became .* in epoch 0, batch \d"):
            train(net, few, wild)


def test_no_snapshot_is_promised_where_there_is_none(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    for journal in (None, Journal(folder=tmp_path)):
        with pytest.raises(UsageError, match="loss became nan in epoch 0") as caught:
            train(net, few, Standard(schedule=SHORT), augment=Diverging(3), journal=journal)
        assert caught.value.hint == "lower the learning rate"


class Normalised(nn.Module):
    """A linear layer after a normalisation without weights, and a constant that is infinite on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.last = nn.Linear(64, 10)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x).flatten(1))  # type: ignore[no-any-return]


def test_running_statistics_that_overflow_are_named(few: Dataset) -> None:
    recipe = Standard(schedule=replace(SHORT, epochs=1))
    train(Normalised(), few, recipe)
    with pytest.raises(UsageError, match="running statistics became NaN or infinite in epoch 0, batch 0"):
        train(Normalised(), few, recipe, augment=lambda images, seed: images * 1e25)


def test_large_weights_are_finite(few: Dataset) -> None:
    model = Normalised()
    model.register_parameter("unused", nn.Parameter(torch.full((4,), 3e38)))
    recipe = Standard(schedule=replace(SHORT, epochs=1, weight_decay=0.0))
    assert torch.isfinite(train(model, few, recipe).state_dict()["unused"]).all()


def test_bit_errors_that_overflow_are_named(net: nn.Module, few: Dataset) -> None:
    recipe = RandomBitErrorTraining(format="fp32", rate=0.02, start="always", gradient_clip=None, schedule=SHORT)
    with pytest.raises(UsageError, match=r"under bit errors became .* in epoch 0, batch 0") as caught:
        train(net, few, recipe)
    assert "rate" in caught.value.hint


def test_bfloat16_learns_and_keeps_float32_weights(few: Dataset) -> None:
    net = build_architecture("digits-cnn", seed=0)
    schedule = Schedule(epochs=6, batch_size=32, lr=0.1)
    recipe = RandomBitErrorTraining(rate=0.01, clip=0.5, start="always", schedule=schedule)
    full = train(net, few, recipe)
    half = train(net, few, recipe, compute=Compute(precision="bfloat16"))
    assert all(value.dtype == torch.float32 for value in half.parameters())
    assert not same(full, half)
    images, labels = few.all()
    errors = [float((model(images).argmax(1) != labels).float().mean()) for model in (full, half)]
    assert errors[1] < 0.3
    assert errors[1] == pytest.approx(errors[0], abs=0.15)
    assert card(half).lineage[-1].parameters["compute"]["precision"] == "bfloat16"
    assert "compute" not in card(full).lineage[-1].parameters


def test_lineage_names_the_augmentation(net: nn.Module, few: Dataset) -> None:
    trained = train(net, few, Standard(schedule=replace(SHORT, epochs=1)), augment=factory(1.0))
    assert card(trained).lineage[-1].parameters["augment"].endswith("factory.<locals>.<lambda>")


def test_a_journal_tells_partial_functions_apart(net: nn.Module, few: Dataset, tmp_path: Path) -> None:
    recipe = Standard(schedule=replace(SHORT, epochs=1))
    for call in (brighter, partial(brighter, by=1.0), partial(partial(brighter, by=1.0), by=2.0)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        done = train(net, few, recipe, augment=call, journal=Journal(folder=folder))
        assert same(done, train(net, few, recipe, augment=call, journal=Journal(folder=folder)))
        with pytest.raises(InvalidConfig, match=r"another training: .*augment"):
            train(net, few, recipe, augment=partial(brighter, by=3.0), journal=Journal(folder=folder))


@pytest.mark.parametrize(
    "call",
    [
        factory(1.0),
        lambda images, seed: images,
        partial(factory(1.0)),
        partial(brighter, by=torch.ones(1)),
        partial(brighter, by=factory(1.0)),
        Chain((factory(1.0),)),
        nn.Identity(),
        nn.Identity().forward,
    ],
    ids=["closure", "lambda", "partial", "tensor", "argument", "chain", "object", "method"],
)
def test_a_journal_refuses_what_it_cannot_tell_apart(
    net: nn.Module, few: Dataset, tmp_path: Path, call: Callable[[Tensor, Seed], Tensor]
) -> None:
    with pytest.raises(InvalidConfig, match="cannot tell") as caught:
        train(net, few, Standard(schedule=SHORT), augment=call, journal=Journal(folder=tmp_path / "journal"))
    assert "dataclass" in caught.value.hint
    assert not (tmp_path / "journal").exists()


def test_tensorboard_is_an_extra(net: nn.Module, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra) as caught:
        train(net, few, Standard(schedule=SHORT), journal=Journal(folder=tmp_path, tensorboard=True))
    assert "holdfast[tensorboard]" in caught.value.hint


def test_tensorboard_gets_every_scalar(
    net: nn.Module, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    from types import SimpleNamespace

    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    train(net, few, Standard(schedule=SHORT), journal=Journal(folder=tmp_path, tensorboard=True))
    names = {name for name, _, _ in written}
    assert names == {"train/loss", "train/error", "train/lr", "train/seconds"}
    assert {step for *_, step in written} == {0, 1}


def test_nothing_to_train_and_models_of_another_kind(net: nn.Module, few: Dataset) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return (self.inner(x.flatten(1)),) * 2

    with pytest.raises(InvalidConfig, match="returns a tuple"):
        train(Pair(), few, Standard(schedule=SHORT))
    with pytest.raises(InvalidConfig, match="nothing to train"):
        train(net.requires_grad_(False), few, Standard(schedule=SHORT))


def test_a_model_that_does_not_fit_is_back_on_the_cpu() -> None:
    moves: list[str] = []

    class Large(nn.Linear):
        def to(self, device: str) -> None:  # type: ignore[override]
            moves.append(device)
            if device != "cpu":
                raise torch.OutOfMemoryError("no memory left (played)")

    with pytest.raises(torch.OutOfMemoryError), Compute(device="cpu:0").prepared(Large(2, 2)):
        pytest.fail("there was room")
    assert moves == ["cpu:0", "cpu"]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:-1", "cuda:99", "cpu:x", "cuda:" + "9" * 30])
def test_a_device_that_cannot_train_is_one_error(device: str, graphs: bool) -> None:
    wrong = MissingDevice if device == "cuda:99" else InvalidConfig
    with pytest.raises(wrong, match=f"there is no device '{device}'") as caught:
        Compute(device=device, graphs=graphs)
    assert caught.value.hint


def test_bad_means_of_computing() -> None:
    with pytest.raises(InvalidConfig, match="float8"):
        Compute(precision="float8")  # type: ignore[arg-type]
    with pytest.raises(MissingDevice, match="cuda:99"):
        Compute(device="cuda:99")
    with pytest.raises(InvalidConfig, match="nonsense"):
        Compute(device="nonsense")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_a_compiled_training_makes_one_graph_and_leaves_a_plain_module(few: Dataset, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    net = build_architecture("digits-cnn:channels=4", seed=0)
    recipe = RandomBitErrorTraining(rate=0.01, clip=0.5, start="always", schedule=SHORT)
    plain, compiled = (train(net, few, recipe, compute=Compute(compile=compile)) for compile in (False, True))
    assert counters["stats"]["unique_graphs"] == 1  # neither batches nor bit errors compile again
    for name, value in plain.named_parameters():
        assert torch.allclose(value, compiled.get_parameter(name), atol=2e-2), name
    save(compiled, tmp_path)
    assert same(compiled, load(tmp_path))


def test_batches_made_ahead_are_the_same_batches(net: nn.Module, few: Dataset) -> None:
    """``cpu:0`` is a device like any other: data and batches are made there, several at once."""
    change = Chain((RandomCrop(padding=1), HorizontalFlip()))
    options = {"seed": 3, "augment": change}
    plain = train(net, few.take(330), Standard(schedule=SHORT), **options)  # type: ignore[arg-type]
    ahead = train(net, few.take(330), Standard(schedule=SHORT), compute=Compute(device="cpu:0"), **options)  # type: ignore[arg-type]
    assert same(plain, ahead)


def test_data_that_do_not_fit_on_the_device_stay_where_they_are(
    few: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> Dataset:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(Dataset, "to", full)
    assert Compute(device="cpu:0").holding(few) is few
    assert "does not fit on cpu:0" in caplog.text
