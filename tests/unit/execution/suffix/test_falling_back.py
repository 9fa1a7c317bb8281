"""What the suffix engine refuses, and that ``auto`` then runs whole passes and says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution.engines import build_engine
from holdfast.models import sites
from tests.unit.execution.suffix.test_bit_equality import draw, same


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


class Around(nn.Module):
    """A linear layer and something that a replay cannot follow."""

    def __init__(self, trick: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.trick = nn.Linear(6, 4), trick
        self.register_buffer("count", torch.zeros(1))
        self.last = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.trick(self, self.inner(x))


def branch(_: Around, y: Tensor) -> Tensor:
    return y * 2 if y.sum() > 0 else y


def shape(_: Around, y: Tensor) -> Tensor:
    return y[:, :2] + y.nonzero().float().sum()


def noise(_: Around, y: Tensor) -> Tensor:
    return y + torch.rand(4)


def counter(net: Around, y: Tensor) -> Tensor:
    net.count += 1
    return y


def memory(net: Around, y: Tensor) -> Tensor:
    result, net.last = y + net.last, y
    return result


def numpy(_: Around, y: Tensor) -> Tensor:
    return y + torch.from_numpy(y.numpy() * 2)


def outside(_: Around, y: Tensor) -> Tensor:
    return y.clamp(-1, 1) if max(y.flatten().tolist()) > 1e6 else y  # a path that only a fault takes


def array(_: Around, y: Tensor) -> Tensor:
    return y.clamp(-1, 1) if np.asarray(y).max() > 1e6 else y


def waves(_: Around, y: Tensor) -> Tensor:
    return torch.fft.rfft(y).abs()


def pair(_: Around, y: Tensor) -> tuple[Tensor, Tensor]:
    return y, y


def bits(_: Around, y: Tensor) -> Tensor:
    return y * 1 + (y.view(torch.int32) & 1)


REASONS = {
    branch: "reads a computed value",
    shape: "shape of",
    noise: "random",
    counter: "writes to count",
    memory: "other bits",
    numpy: "outside torch",
    outside: "outside torch",
    array: "outside torch",
    waves: "complex",
    pair: "one tensor",
    bits: "memory as",
}


@pytest.mark.parametrize("trick", REASONS)
def test_a_model_that_a_replay_cannot_follow_is_refused_with_the_reason(trick: Callable[..., Tensor]) -> None:
    model = Around(trick).eval()
    engine = build_engine("suffix", model, lambda numbers: torch.ones(len(numbers), 6))
    with pytest.raises(InvalidConfig, match=REASONS[trick]) as error:
        engine.golden((0,))
    assert "auto" in error.value.hint


def test_auto_runs_whole_passes_then_and_says_why() -> None:
    model = Around(branch).eval()
    images = lambda numbers: torch.ones(len(numbers), 6)
    auto, plain = build_engine("auto", model, images), build_engine("hooks", model, images)
    trials = draw(sites(model, torch.ones(6)), 1)
    for block in auto.blocks(trials, 4):
        if auto.together(block):
            assert same(auto.faulty(block), plain.faulty(block))
    assert auto.chosen == "hooks"
    assert "computed value" in auto.reason
    assert same(auto.golden((0, 0)), plain.golden((0, 0)))


def test_auto_replays_a_model_that_can_be_captured() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    images = lambda numbers: torch.ones(len(numbers), 6)
    auto, plain = build_engine("auto:least=0", model, images), build_engine("hooks", model, images)
    trials = draw(sites(model, torch.ones(6)), 1)
    (block,) = auto.blocks(trials, 100)
    assert same(auto.faulty(block), torch.cat([plain.faulty((trial,)) for trial in trials]))
    assert (auto.chosen, auto.reason) == ("suffix", None)


def test_a_decision_on_constants_is_no_reason_to_refuse() -> None:
    def constant(_: Around, y: Tensor) -> Tensor:
        return y + 1 if torch.arange(3).sum() > 2 else y

    engine = build_engine("suffix", Around(constant).eval(), lambda numbers: torch.ones(len(numbers), 6))
    assert engine.golden((0,)).shape == (1, 4)


def test_options_of_an_engine_are_checked() -> None:
    with pytest.raises(InvalidConfig, match="holds no golden pass"):
        build_engine("suffix:memory=0", nn.Linear(2, 2), torch.zeros)
    with pytest.raises(UnknownName, match="sufix"):
        build_engine("sufix", nn.Linear(2, 2), torch.zeros)


def test_auto_runs_small_nets_in_batches_of_whole_passes() -> None:
    auto = build_engine("auto", nn.Linear(6, 4).eval(), lambda numbers: torch.ones(len(numbers), 6))
    auto.golden((0,))
    assert auto.chosen == "hooks"
    assert "0.0 million multiply-adds" in auto.reason


@pytest.mark.parametrize("seed", range(8))
def test_small_products_with_zeros_behind_a_relu_are_not_trusted_by_their_zeros(seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    images = lambda numbers: torch.ones(len(numbers), 6)
    suffix, plain = build_engine("suffix", model, images), build_engine("hooks", model, images)
    trials = draw(sites(model, torch.ones(6)), 1)
    assert same(suffix.faulty(trials), torch.cat([plain.faulty((trial,)) for trial in trials]))
