"""Learning rates."""

from __future__ import annotations

import math
from inspect import signature

import pytest

from holdfast.cli.train import train as verb
from holdfast.errors import InvalidConfig
from holdfast.training.recipes import Schedule


def test_the_papers_schedule_falls_at_two_three_and_four_fifths() -> None:
    schedule = Schedule(epochs=250, lr=0.05, per="batch")
    rates = [schedule.rate(epoch, batch, 391) for epoch in range(250) for batch in range(391)]
    total = 250 * 391
    for share, expected in ((0, 0.05), (0.4, 0.005), (0.6, 5e-4), (0.8, 5e-5)):
        at = round(share * total)
        assert rates[at] == pytest.approx(expected)
        assert at == 0 or rates[at - 1] == pytest.approx(10 * expected)


def test_steps_per_epoch_hold_within_an_epoch() -> None:
    schedule = Schedule(epochs=10, lr=1.0)
    assert [schedule.rate(epoch, 3, 7) for epoch in range(10)] == pytest.approx(
        [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3]
    )
    assert Schedule(epochs=1, lr=1.0).rate(0, 6, 7) == 1.0


def test_the_cosine_ends_near_zero() -> None:
    schedule = Schedule(epochs=4, lr=2.0, decay="cosine", per="batch")
    rates = [schedule.rate(epoch, batch, 5) for epoch in range(4) for batch in range(5)]
    assert rates == pytest.approx([1 + math.cos(math.pi * done / 20) for done in range(20)])
    assert Schedule(epochs=4, lr=2.0, decay="constant").rate(3, 4, 5) == 2.0


def test_a_warm_up_grows_batch_by_batch() -> None:
    schedule = Schedule(epochs=4, lr=1.0, decay="constant", warmup=2)
    rates = [schedule.rate(epoch, batch, 5) for epoch in range(4) for batch in range(5)]
    assert rates == pytest.approx([0.1 * k for k in range(1, 11)] + [1.0] * 10)


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"decay": "linear"},
        {"per": "step"},
        {"epochs": 3, "warmup": 4},
        {"warmup": -1},
        {"ema": 1.0},
        {"ema": math.nan},
    ],
)
def test_bad_schedules(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        Schedule(**bad)


def test_the_advice_holds_the_defaults() -> None:
    with pytest.raises(InvalidConfig, match="learning rate") as caught:
        Schedule(lr=0.0)
    low, high = (float(word) for word in caught.value.hint.split()[:3:2])
    assert low <= Schedule().lr <= high
    assert low <= signature(verb).parameters["lr"].default <= high
