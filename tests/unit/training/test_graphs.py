"""Passes as graphs: what is copied in and out, when one is captured, and what happens when one cannot be.

Without a GPU a stand-in takes the place of the capture: it runs the pass on the graph's own memory, as a replay does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast._kernels import device as devices
from holdfast.cli import main
from holdfast.data import Dataset, dataset
from holdfast.errors import InvalidConfig
from holdfast.models import build_architecture
from holdfast.numerics import bits
from holdfast.seeds import derive
from holdfast.training import (
    AdversarialBitErrorTraining,
    Alternating,
    Compute,
    RandomBitErrorTraining,
    Recipe,
    Standard,
    train,
)
from holdfast.training import graphs as module
from holdfast.training.graphs import Graphs, graphing
from holdfast.training.recipes import Schedule
from holdfast.training.recipes.protocol import loss_and_gradients, trainable
from holdfast.training.recipes.resident import ResidentCodes

SCHEDULE = Schedule(epochs=2, batch_size=64, lr=0.05)
OPEN = RandomBitErrorTraining(rate=0.02, start="always", schedule=SCHEDULE)
ATTACKED = AdversarialBitErrorTraining(bits=5, start="always", iterations=2, schedule=SCHEDULE)
Result = tuple[Tensor, list[Tensor]]


class StandIn:
    """Captures nothing, but runs the pass again and again on the memory of the first run."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.captures, self.replays = model, 0, 0

    def __call__(self, call: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        self.captures += 1
        before = {name: value.clone() for name, value in self.model.named_buffers()}
        result = call()
        for name, value in self.model.named_buffers():  # a capture computes nothing
            value.copy_(before[name])

        def replay() -> None:
            self.replays += 1
            again = call()
            result[0].copy_(again[0])
            torch._foreach_copy_(result[1], again[1])

        return replay, result


@pytest.fixture
def few() -> Dataset:
    return dataset("digits", split="train").take(200)


@pytest.fixture
def net() -> nn.Module:
    return build_architecture("digits-cnn:channels=4", seed=0)


RECIPES = [
    pytest.param(OPEN, id="open"),
    pytest.param(replace(OPEN, chips=2, statistics="both", gradient_clip=None), id="two-chips", marks=pytest.mark.slow),
    pytest.param(Standard(schedule=SCHEDULE), id="standard", marks=pytest.mark.slow),
    pytest.param(Alternating(rate=0.02, start="always", schedule=SCHEDULE), id="alternating", marks=pytest.mark.slow),
    pytest.param(ATTACKED, id="attacked"),
    pytest.param(replace(ATTACKED, label_smoothing=0.1, restarts=2), id="smoothed-attacked", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_by_graphs_gives_the_same_weights(
    net: nn.Module, few: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(net, few, recipe, seed=1)
    seen: list[StandIn] = []

    def capture(call: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        stand_in = seen[0] if seen else StandIn(module._current.get().model)  # type: ignore[union-attr]
        seen[:] = [stand_in]
        return stand_in(call)

    monkeypatch.setattr(devices, "KINDS", ["cpu"])
    monkeypatch.setattr(ResidentCodes, "of", lambda *_: None)
    monkeypatch.setattr(module, "captured", capture)
    found = train(net, few, recipe, seed=1, compute=Compute(graphs=True))
    assert seen[0].captures >= 1
    assert seen[0].replays >= 4
    assert all(bits.bit_equal(value, found.state_dict()[name]) for name, value in plain.state_dict().items())


def test_passes_of_an_attack_are_replayed_as_well(
    net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph of the clean pass and one of all others; what is not replayed is the pass that scores the end."""
    stand_in = StandIn(net.train())
    monkeypatch.setattr(module, "captured", stand_in)
    images, labels = few.batch(torch.arange(20))
    with graphing(net):
        for number in range(5):
            ATTACKED.gradients(net, images, labels, derive(number), 0.0)
    assert stand_in.captures == 2
    assert stand_in.replays == 5 * (2 + ATTACKED.iterations) - 2 * module._BEFORE


def test_what_cannot_be_captured_runs_as_it_is(
    net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(module, "captured", fails)
    images, labels = few.batch(torch.arange(20))
    net.train()
    weights = {name: value.detach() for name, value in trainable(net).items()}
    expected, _ = loss_and_gradients(net, weights, images, labels, keep_buffers=True)
    with graphing(net):
        found = [loss_and_gradients(net, weights, images, labels, keep_buffers=True)[0] for _ in range(5)]
    assert found == [expected] * 5
    assert [record.message for record in caplog.records] == [
        "passes run without CUDA graphs from now on: operation not permitted when stream is capturing"
    ]


def test_after_a_capture_that_failed_no_graph_is_replayed(
    net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator that a failed capture left has another state than the one that earlier graphs draw from."""
    seen = StandIn(net)
    monkeypatch.setattr(module, "captured", seen)
    graphs, weights = Graphs(net), {name: value.detach() for name, value in trainable(net).items()}

    def call(weights: object, images: Tensor, labels: Tensor) -> Result:
        return images.sum().view(1), [labels.float()]

    for _ in range(4):
        graphs.run(call, ("a",), weights, *few.batch(torch.arange(4)))
    monkeypatch.setattr(module, "captured", lambda _: torch.empty(0).item())  # which is a RuntimeError
    for kind in "bbba":
        graphs.run(call, (kind,), weights, *few.batch(torch.arange(4)))
    assert (seen.captures, seen.replays) == (1, 2)
    assert not graphs.known


def test_shapes_and_kinds_have_graphs_of_their_own_up_to_a_number(
    net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "captured", StandIn(net))
    graphs, weights = Graphs(net), {name: value.detach() for name, value in trainable(net).items()}

    def call(weights: object, images: Tensor, labels: Tensor) -> Result:
        return images.sum().view(1), [labels.float()]

    for size in (4, 4, 4, 5, 5, 4, 6, *range(10, 40), *range(10, 40), *range(10, 40)):
        images, labels = few.batch(torch.arange(size))
        for kind in (("a",), ("b",)):
            losses, (gradient,) = graphs.run(call, kind, weights, images, labels)
            assert losses == images.sum()
            assert torch.equal(gradient, labels.float())
    assert len(graphs.known) == 8
    assert {key[1] for key in graphs.known} > {torch.Size([4, 1, 8, 8])}


def test_results_outlive_the_next_run(net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "captured", StandIn(net))
    graphs, weights = Graphs(net), {name: value.detach() for name, value in trainable(net).items()}

    def call(weights: object, images: Tensor, labels: Tensor) -> Result:
        return images.sum().view(1), [images.clone()]

    batches = [few.batch(torch.arange(first, first + 4)) for first in range(0, 40, 4)]
    found = [graphs.run(call, (), weights, *batch) for batch in batches]
    assert all(torch.equal(result[1][0], batch[0]) for result, batch in zip(found, batches, strict=True))
    assert len({float(result[0]) for result in found}) == len(found)


def test_another_model_s_passes_are_left_alone(net: nn.Module, few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "captured", lambda _: pytest.fail("captured"))
    images, labels = few.batch(torch.arange(20))
    weights = {name: value.detach() for name, value in trainable(net).items()}
    with graphing(build_architecture("digits-cnn:channels=4", seed=0)):
        for _ in range(4):
            loss_and_gradients(net, weights, images, labels, keep_buffers=True)


def test_a_cpu_has_no_graphs() -> None:
    with pytest.raises(InvalidConfig, match="no CUDA graphs on cpu"):
        Compute(graphs=True)


def test_the_command_line_says_so_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits-cnn", "--data", "digits", "--graphs", "-o", str(tmp_path / "out")]) == 2
    assert "device=cuda has them" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_graphs_of_a_gpu_train_as_launches_do(
    net: nn.Module, few: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    plain, graphed = (
        train(net, few, recipe, seed=1, compute=Compute(device="cuda", graphs=graphs)).state_dict()
        for graphs in (False, True)
    )
    for name, value in plain.items():
        assert torch.allclose(value, graphed[name], atol=1e-4), name
