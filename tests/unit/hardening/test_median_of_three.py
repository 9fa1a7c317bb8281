from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import campaign, predict
from holdfast.faults import BitFlip
from holdfast.hardening import harden, methods
from holdfast.hardening.guards.median_of_three import MedianGuard, median_of_three
from holdfast.models import card, load, save
from holdfast.numerics import bits


@pytest.fixture(scope="module")
def voting(trained: nn.Module) -> nn.Module:
    return harden(trained, methods.build("median-of-3").calibrated(trained, None))


def test_the_median_is_the_middle_and_ignores_one_nan() -> None:
    for values, middle, split in [
        ((1.0, 2.0, 3.0), 2.0, True),
        ((1.0, 1.0, 9.0), 1.0, False),
        ((math.nan, 4.0, 4.0), 4.0, False),
        ((math.nan, 4.0, 5.0), 5.0, True),
        ((-math.inf, 0.0, math.inf), 0.0, True),
    ]:
        for order in permutations(values):
            found, where = median_of_three(*(torch.tensor([[value]]) for value in order))
            assert found.item() == middle
            assert where.item() is split


def test_a_clean_pass_keeps_its_bits(voting: nn.Module, trained: nn.Module, digits: Dataset) -> None:
    assert bits.bit_equal(predict(voting, digits), predict(trained, digits))
    (guard,) = card(voting).guards
    assert int(guard.events.sum()) == int(guard.alarms.sum()) == 0


def test_transient_faults_are_outvoted_and_lasting_ones_are_not(
    voting: nn.Module, trained: nn.Module, digits: Dataset
) -> None:
    plain, voted = (
        campaign(model, digits, BitFlip(), at="activations", trials=600, seed=0) for model in (trained, voting)
    )
    assert plain.counts["critical"] + plain.counts["due"] > 5
    assert all(row.outcome in ("masked", "corrected") for row in voted.rows)
    assert {row.trial for row in voted.rows if row.guard_events} == {
        row.trial for row in plain.rows if row.outcome != "masked"
    }
    lasting = [campaign(model, digits, BitFlip(), at="weights", trials=60, seed=0) for model in (trained, voting)]
    assert [row.outcome for row in lasting[0].rows] == [row.outcome for row in lasting[1].rows]
    assert lasting[1].guarded == 0


class Flaky(nn.Module):
    """Wrong in every pass whose number is in ``when``, in its own way."""

    def __init__(self, when: set[int]) -> None:
        super().__init__()
        self.when, self.passes = when, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x + self.passes if self.passes in self.when else x


@pytest.mark.parametrize(
    ("when", "result", "events", "alarms", "passes"),
    [
        (set(), 0.0, 0, 0, 2),
        ({1}, 0.0, 3, 0, 3),
        ({2}, 0.0, 0, 0, 3),
        ({1, 2, 3}, 2.0, 0, 3, 3),
        ({2, 3}, 2.0, 0, 3, 3),
    ],
)
def test_passes_and_votes(when: set[int], result: float, events: int, alarms: int, passes: int) -> None:
    model = Flaky(when)
    hard = harden(model, methods.build("median-of-3").calibrated(model, None))
    assert hard(torch.zeros(2, 3)).tolist() == [[result] * 3] * 2
    (guard,) = card(hard).guards
    assert (guard.events.tolist(), guard.alarms.tolist()) == ([events] * 2, [alarms] * 2)
    assert hard.passes == passes


def test_a_pass_that_fails_leaves_nothing_behind(trained: nn.Module, voting: nn.Module) -> None:
    hooks = len(voting._forward_hooks)
    with pytest.raises(RuntimeError), torch.no_grad():
        voting(torch.zeros(1, 5, 8, 8))
    with torch.no_grad():
        voting(torch.zeros(1, 1, 8, 8))
    assert len(voting._forward_hooks) == hooks


def test_it_is_saved_and_refuses_a_site(voting: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    save(voting, tmp_path / "model")
    back = load(tmp_path / "model")
    assert [guard.to_json() for guard in card(back).guards] == [{"kind": "median-of-3", "site": ""}]
    assert bits.bit_equal(predict(back, digits), predict(voting, digits))
    with pytest.raises(InvalidConfig, match="whole model"):
        MedianGuard("fc")
