"""The trace of one fault: where it begins, where it spreads, where a guard or a ReLU ends it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, dataset
from holdfast.execution.condition import Flips
from holdfast.execution.plan import Trial
from holdfast.execution.propagation import Ripple, propagation, vanished
from holdfast.hardening import RangeRestriction, harden, profile
from holdfast.models import select


class Net(nn.Module):
    """Three places and an addition: ``first``, ``relu``, ``/add``, ``last``."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.relu, self.last = nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 8

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.flatten(1))
        return self.last(hidden + self.relu(hidden))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset("digits", split="test")


def _trial(model: nn.Module, data: Dataset, at: str, element: int, bit: int) -> Trial:
    (site,) = select(model, at, data.example)
    mask = torch.tensor([1 << bit if bit < 31 else -(2**31)])
    return Trial(0, (Flips(site, torch.tensor([element]), mask),), 5)


def test_a_fault_shows_from_its_place_on_and_nowhere_before(data: Dataset) -> None:
    model = Net().eval()
    trace = propagation(model, data, _trial(model, data, "activations:relu", 2, 30))
    shares = {ripple.place: ripple.changed for ripple in trace}
    assert shares["first"] == 0
    assert shares["relu"] == pytest.approx(1 / 6)
    assert shares["last"] == shares["output"] == 1
    assert vanished(trace) is None


def test_what_the_fault_did_is_measured_against_the_golden_magnitude(data: Dataset) -> None:
    model = Net().eval()
    images = data.batch(torch.tensor([5]))[0]
    hidden = model.first(images.flatten(1))[0].detach()
    trace = propagation(model, data, _trial(model, data, "activations:first", 0, 31))  # the sign
    first = next(ripple for ripple in trace if ripple.place == "first")
    assert first.largest == pytest.approx(2 * abs(float(hidden[0])) / float(hidden.abs().max()))


def test_a_fault_in_a_weight_begins_where_it_is_used(data: Dataset) -> None:
    model = Net().eval()
    trace = propagation(model, data, _trial(model, data, "weights:last.weight", 0, 30))
    assert [ripple.place for ripple in trace if ripple.changed] == ["last", "output"]
    assert math.isinf(trace[-1].largest) or trace[-1].largest > 1


def test_a_guard_ends_the_fault(data: Dataset) -> None:
    plain = Net().eval()
    calibration = dataset("digits", split="train").take(200)
    tough = harden(plain, RangeRestriction(profile(plain, calibration, at="activations:first,activations:last")))
    trial = _trial(tough, data, "activations:first", 3, 30)
    loose, held = propagation(plain, data, trial), propagation(tough, data, trial)
    assert max(ripple.largest for ripple in loose) > 1e6
    assert max(ripple.largest for ripple in held if ripple.place in ("last", "output")) < 10


def test_a_masked_fault_names_the_place_that_stopped_it(data: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)).eval()
    model[1].weight.data.zero_()
    model[1].bias.data.fill_(-1.0)  # always negative, so a flipped mantissa bit stays behind the ReLU
    trace = propagation(model, data, _trial(model, data, "activations:1", 0, 3))
    assert [ripple.place for ripple in trace if ripple.changed] == ["1"]
    assert vanished(trace) == "2"


def test_nothing_vanishes_where_nothing_differed() -> None:
    assert vanished([Ripple("a", 0.0, 0.0), Ripple("b", 0.0, 0.0)]) is None
