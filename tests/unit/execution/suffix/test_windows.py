"""Boxes of what differs: they hold it, they stay small, and what equals the golden pass is dropped."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from holdfast.execution.condition import Flips
from holdfast.execution.engines import build_engine
from holdfast.execution.engines.suffix import Suffix, replay
from holdfast.execution.engines.suffix.dirty import differing, hull, overlap, reshaped
from holdfast.execution.engines.suffix.tape import Step
from holdfast.execution.engines.suffix.trial import Flight
from holdfast.execution.plan import Trial
from holdfast.models import sites
from tests.unit.execution.suffix.nets import build
from tests.unit.execution.suffix.test_bit_equality import same


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


@pytest.fixture
def whole_steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the operations that are run on whole cells from now on."""
    ran: list[str] = []
    plain = replay.Replay._dense

    def spy(self: replay.Replay, number: int, step: Step, flight: Flight) -> None:
        ran.append(str(step.call))
        plain(self, number, step, flight)

    monkeypatch.setattr(replay.Replay, "_dense", spy)
    return ran


def fault(model: nn.Module, sample: Tensor, name: str, element: int, bit: int) -> Trial:
    site = next(site for site in sites(model, sample) if site.name == name)
    return Trial(0, (Flips(site, torch.tensor([element]), torch.tensor([1 << bit])),), 0)


def test_boxes_meet_and_grow() -> None:
    assert overlap(((0, 3), (2, 5)), ((1, 9), (0, 3))) == ((1, 3), (2, 3))
    assert overlap(((0, 3),), ((3, 4),)) is None
    assert hull([((0, 1), (4, 5)), ((2, 3), (1, 2))]) == ((0, 3), (1, 5))


def test_a_box_under_another_shape_holds_the_same_elements() -> None:
    marked = torch.zeros(2, 6, 4)
    marked[1, 2:4] = 1
    box = reshaped(((1, 2), (2, 4), (0, 4)), (2, 6, 4), (12, 4))
    assert box == ((8, 10), (0, 4))
    assert marked.view(12, 4)[8:10].sum() == marked.sum()
    wide = reshaped(((0, 2), (1, 2), (1, 2)), (2, 6, 4), (48,))
    assert wide == ((5, 30),)


def test_differing_compares_bits() -> None:
    golden = torch.zeros(2, 3, 4)
    ours = golden.clone()
    assert differing(ours, golden) is None
    ours[1, 2, 3], ours[1, 0, 1] = -0.0, float("nan")  # equal as numbers, and unequal to itself
    assert differing(ours, golden) == ((1, 2), (0, 3), (1, 4))
    assert differing(ours, ours.clone()) is None


# kernel, stride, padding, dilation
GEOMETRIES = list(itertools.product((1, 3, 4), (1, 2, 3), (0, 2), (1, 2)))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_window_of_a_convolution_holds_all_that_differs(geometry: tuple[int, int, int, int]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(sum(geometry))
        layers = [nn.Identity(), nn.Conv2d(2, 3, *geometry), nn.ReLU()]
    model = nn.Sequential(nn.Conv2d(1, 2, 1), *layers, nn.Flatten()).eval()
    samples = torch.randn(1, 1, 13, 11, generator=torch.Generator().manual_seed(sum(geometry)))
    engine = build_engine("suffix", model, lambda numbers: samples[list(numbers)].clone())
    plain = build_engine("hooks", model, lambda numbers: samples[list(numbers)].clone())
    for element in (0, 10, 142, 143, 71, 285):
        trial = fault(model, samples[0], "0", element, 30)
        assert same(engine.faulty((trial,)), plain.faulty((trial,)))


def test_windows_that_lie_in_the_padding_hold_what_the_padding_holds() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1, padding=2), nn.Flatten()).eval()
    for weight in model.parameters():
        nn.init.constant_(weight, 0.5)  # sums are exact, so that every window passes for a good one
    samples = torch.ones(1, 1, 13, 11)
    engine = build_engine("suffix", model, lambda numbers: samples[list(numbers)].clone())
    plain = build_engine("hooks", model, lambda numbers: samples[list(numbers)].clone())
    for element in (0, 10, 142, 71, 285):
        trial = fault(model, samples[0], "0", element, 30)
        assert same(engine.faulty((trial,)), plain.faulty((trial,)))


def test_a_masked_fault_ends_where_it_is_masked(whole_steps: list[str]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    nn.init.constant_(model[0].bias, -100.0)  # every rectifier gives 0, whatever small bit flips before it
    engine = Suffix(model, lambda numbers: torch.ones(len(numbers), 8))
    output = engine.faulty((fault(model, torch.ones(8), "0", 3, 2),))
    assert same(output, engine.golden((0,)))
    assert not any("addmm" in name for name in whole_steps)


def test_a_fault_in_one_neuron_of_a_large_map_computes_windows_only(whole_steps: list[str]) -> None:
    # kernels of 5 x 5: one library computes maps of every size; of 3 x 3, small maps of a batch of 1 go to another one
    model = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Conv2d(8, 8, 5, padding=2), nn.ReLU())]).eval()
    model.append(nn.Flatten())
    nn.init.constant_(model[0].bias, 9.0)  # no rectifier masks the fault
    samples = torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    engine, plain = (build_engine(name, model, lambda numbers: samples.clone()) for name in ("suffix", "hooks"))
    trial = fault(model, samples[0], "0", 3 * 64 * 64 + 30 * 64 + 17, 30)
    assert same(engine.faulty((trial,)), plain.faulty((trial,)))
    assert whole_steps == []


def test_a_late_token_of_a_causal_decoder_leaves_the_early_ones_alone(whole_steps: list[str]) -> None:
    model, samples = build("gpt")
    engine = Suffix(model, lambda numbers: samples[list(numbers)].clone())
    plain = build_engine("hooks", model, lambda numbers: samples[list(numbers)].clone())
    trial = fault(model, samples[0], "blocks.0.qkv", 20 * 96 + 40, 29)  # token 20 of 24, among the keys
    assert same(engine.faulty((trial,)), plain.faulty((trial,)))
    products = [name for name in whole_steps if "addmm" in name]
    assert len(products) <= 2  # the projections behind attention; all others see four tokens


def test_a_field_that_lies_in_the_padding_alone_is_padding() -> None:
    """A wide kernel over a narrow map, with stride: the window of a corner may see no value of the map at all."""
    from holdfast.execution.engines.suffix.tape import Read
    from holdfast.execution.engines.suffix.trust import _padded

    values = torch.arange(16.0).view(1, 1, 4, 4)
    read = Read(0, (1, 1, 4, 4), values.stride(), 0)
    fetch = lambda _, box: values[tuple(slice(low, high) for low, high in box)]
    for field in (((0, 1), (0, 1), (-3, -1), (0, 2)), ((0, 1), (0, 1), (0, 2), (5, 7))):
        assert _padded(read, field, fetch, 7.0).tolist() == torch.full((1, 1, 2, 2), 7.0).tolist()
    edge = _padded(read, ((0, 1), (0, 1), (-1, 2), (3, 5)), fetch, 0.0)
    assert edge.tolist() == torch.tensor([[[[0.0, 0.0], [3.0, 0.0], [7.0, 0.0]]]]).tolist()
