"""Range guards per tensor, channel, token and element, with every action; counters are exact."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.hardening import RangeGuard, RecomputingRangeGuard
from holdfast.models import alarms_of, attach_guard, card, tap
from holdfast.models.guard import guard_from_json
from holdfast.numerics.bits import bit_equal

NAN, INF = torch.nan, torch.inf


def test_bounds_of_each_channel():
    guard = RangeGuard("x", [-1.0, 0.0], [1.0, 10.0], dim=1)
    x = torch.tensor([[[0.5, 2.0], [9.0, 11.0]], [[-3.0, NAN], [-INF, INF]], [[1.0, -1.0], [0.0, 10.0]]])
    assert torch.equal(guard(x), torch.tensor([[[0.5, 1.0], [9.0, 10.0]], [[-1, 0], [0, 10]], [[1, -1], [0, 10]]]))
    assert guard.events.tolist() == [2, 4, 0]


def test_bounds_of_each_token_and_of_the_last_dimension():
    x = torch.tensor([[[5.0, 5.0], [5.0, 5.0]]])
    assert torch.equal(RangeGuard("x", [0, 0], [9, 1], dim=1)(x.clone()), torch.tensor([[[5.0, 5], [1, 1]]]))
    assert torch.equal(RangeGuard("x", [0, 0], [9, 1], dim=-1)(x.clone()), torch.tensor([[[5.0, 1], [5, 1]]]))


def test_bounds_of_each_element():
    guard = RangeGuard("x", [0.0] * 4, [1.0, 2.0, 3.0, 4.0], dim="element")
    assert torch.equal(guard(torch.full((1, 2, 2), 9.0)), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    assert guard.events.tolist() == [4]


@pytest.mark.parametrize(
    ("action", "expected"),
    [("clip", [0.5, 2.0, -1.0, 0.0]), ("zero", [0.5, 0, 0, 0]), ("resample", [0.5, 0.3, 0.3, 0.3])],
)
def test_actions(action: str, expected: list[float]):
    guard = RangeGuard("x", -1.0, 2.0, action=action, mean=0.3)
    assert torch.equal(guard(torch.tensor([[0.5, INF, -7.0, NAN]])), torch.tensor([expected]))
    assert guard.events.tolist() == [3]


def test_resampling_takes_the_mean_of_the_channel():
    guard = RangeGuard("x", [-1, -1], [1, 1], dim=1, action="resample", mean=[0.25, -0.5])
    assert torch.equal(guard(torch.tensor([[9.0, NAN], [0.0, 2.0]])), torch.tensor([[0.25, -0.5], [0.0, -0.5]]))


def test_a_guard_may_leave_nan_alone_as_a_clamp_does():
    guard = RangeGuard("x", -1.0, 1.0, nan="keep")
    found = guard(torch.tensor([[NAN, 5.0], [0.0, 0.0]]))
    assert found[0].isnan().tolist() == [True, False]
    assert found[0, 1] == 1
    assert guard.events.tolist() == [1, 0]


@pytest.mark.parametrize("dim", [None, 1, -1])
def test_a_clean_pass_writes_nothing_and_counts_zero(dim: int | None):
    x = torch.rand(3, 4, 5)
    size = {None: None, 1: 4, -1: 5}[dim]
    low, high = (0.0, 1.0) if size is None else ([0.0] * size, [1.0] * size)
    guard, version = RangeGuard("x", low, high, dim=dim), x._version
    assert guard.events is None
    assert guard(x) is x
    assert x._version == version
    assert guard.events.tolist() == [0, 0, 0]


def test_every_single_bit_flip_ends_inside_the_range():
    """No residual NaN or infinity, whatever bit is flipped, in every float type."""
    for dtype, ints in ((torch.float32, torch.int32), (torch.float16, torch.int16), (torch.bfloat16, torch.int16)):
        bits = torch.finfo(dtype).bits
        for value in (0.75, -3.0, 0.0):
            clean = torch.full((bits, 3), value, dtype=dtype)
            masks = torch.tensor([-(1 << k) if k == bits - 1 else 1 << k for k in range(bits)], dtype=ints)
            faulty = clean.clone()
            faulty.view(ints)[:, 1] ^= masks
            outside = ~((faulty >= -4) & (faulty <= 4))
            guard = RangeGuard("x", -4.0, 4.0)
            found = guard(faulty)
            assert found.isfinite().all()
            assert found.abs().max() <= 4
            assert torch.equal(guard.events, outside.sum(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.fc(x)) + 1


@torch.no_grad()
def test_recomputing_undoes_a_transient_fault_and_reports_a_persistent_one():
    model, x = Net().eval(), torch.rand(3, 4)
    golden = model(x)
    attach_guard(model, guard := RecomputingRangeGuard("fc", -10.0, 10.0))
    assert bit_equal(model(x), golden)
    assert guard.alarms.tolist() == [0, 0, 0]

    def strike(value: Tensor) -> Tensor:
        value[1, 2], value[1, 3] = 1e30, NAN
        return value

    with tap(model, {"fc": strike}):
        assert bit_equal(model(x), golden)
    assert (guard.events.tolist(), guard.alarms.tolist()) == ([0, 2, 0], [0, 0, 0])
    model.fc.weight[0, 0] = INF
    assert model(x).isfinite().all()
    assert (guard.events.tolist(), alarms_of(guard).tolist()) == ([0, 0, 0], [1, 1, 1])


@torch.no_grad()
def test_what_an_operation_in_place_overwrote_is_an_alarm():
    model, x = Net().eval(), torch.rand(2, 4)
    attach_guard(model, guard := RecomputingRangeGuard("relu", 0.0, 10.0))
    with tap(model, {"relu": lambda value: value.fill_(99)}):
        assert torch.equal(model(x), torch.full((2, 4), 11.0))
    assert guard.events.tolist() == [0, 0]
    assert guard.alarms.tolist() == [4, 4]


@torch.no_grad()
def test_guards_survive_json_and_copies():
    for guard in (
        RangeGuard("fc", [-1.0] * 4, [1.0] * 4, dim=-1, action="resample", mean=[0.0] * 4),
        RangeGuard("fc", -1.0, 1.0, nan="keep"),
        RecomputingRangeGuard("fc", -1.0, 1.0, action="zero"),
    ):
        again = guard_from_json(guard.to_json())
        assert type(again) is type(guard)
        assert again.to_json() == guard.to_json()
        model = Net().eval()
        attach_guard(model, again)
        model(torch.rand(2, 4))
        twin = copy.deepcopy(model)
        twin(torch.rand(5, 4))
        assert (len(card(model).guards[0].events), len(card(twin).guards[0].events)) == (2, 5)


def test_bounds_of_another_size_are_refused():
    guard = RangeGuard("tokens", [0.0] * 3, [1.0] * 3, dim=1)
    with pytest.raises(InvalidConfig, match="3 bounds"):
        guard(torch.rand(1, 5, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"low": [0.0], "high": [1.0, 2.0], "dim": 1},
        {"low": [0.0], "high": [1.0]},
        {"low": [0.0, 2.0], "high": [1.0, 1.0], "dim": 1},
        {"low": 0.0, "high": 1.0, "action": "explode"},
        {"low": 0.0, "high": 1.0, "action": "resample"},
        {"low": 0.0, "high": 1.0, "nan": "panic"},
    ],
)
def test_senseless_guards(options: dict):
    with pytest.raises(InvalidConfig):
        RangeGuard("x", **options)
