"""Drift: the test keeps its level, one look or many, and a small shift is seen."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion
from holdfast.identification.drift import DriftMonitor, logprob_drift, table
from holdfast.seeds import derive

TOKENS = [f"t{k}" for k in range(8)]


def answers(seed: int, side: str, n: int, *, shift: float = 0.0, noise: float = 0.02, prompts: int = 1):
    """What a server that is not quite deterministic says: a noise of batches around its log-probabilities."""
    generator = derive(seed, "drift", side).numpy()
    base = derive(1, "base").numpy().normal(-3, 1, (prompts, len(TOKENS)))
    base[:, 0] += shift
    rows = base[:, None] + generator.normal(0, noise, (prompts, n, len(TOKENS)))
    return {p: [dict(zip(TOKENS, row, strict=True)) for row in rows[p].tolist()] for p in range(prompts)}


def test_a_token_that_is_not_listed_counts_as_the_last_that_is() -> None:
    assert table([{"a": -1.0, "b": -2.0}, {"a": -1.0, "c": -3.0}]).tolist() == [[-1, -2, -2], [-1, -3, -3]]


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_under_the_null_the_false_alarm_rate_is_the_level(noise: float) -> None:
    alarms = [
        logprob_drift(
            answers(k, "a", 6, noise=noise), answers(k, "b", 9, noise=noise), permutations=199, seed=k
        ).differ(0.05)
        for k in range(400)
    ]
    rate = Proportion.clopper_pearson(sum(alarms), len(alarms))
    assert rate.low <= 0.05  # a server that always says the same never gives an alarm
    assert rate.value < 0.08
    assert (rate.value > 0.02) == (noise > 0)


def test_the_power_grows_with_the_answers_and_the_prompts() -> None:
    def power(n: int, prompts: int) -> float:
        found = [
            logprob_drift(
                answers(k, "a", n, prompts=prompts),
                answers(k, "b", n, shift=0.04, prompts=prompts),
                permutations=199,
                seed=k,
            )
            for k in range(60)
        ]
        return sum(item.differ(0.05) for item in found) / 60

    few, many, more_prompts = power(5, 1), power(30, 1), power(5, 6)
    assert many > 0.9
    assert more_prompts > few + 0.2
    assert few < 0.7


def test_a_change_of_a_deterministic_server_shows_at_once() -> None:
    found = logprob_drift(answers(1, "a", 8, noise=0), answers(1, "b", 8, shift=1e-6, noise=0), permutations=999)
    assert found.differ(0.01)
    assert found.statistic == pytest.approx(1e-6 / 8, rel=1e-3)


def test_looking_after_every_answer_keeps_the_bound() -> None:
    """Testing anew at every look, as with a fixed-sample test, gives false alarms far more often than the level."""
    runs, looks, alarms, naive = 200, 60, 0, 0
    for k in range(runs):
        monitor = DriftMonitor(answers(k, "ref", 20), error=0.05, seed=k)
        stream = answers(k, "stream", looks)[0]
        for row in stream:
            monitor.see(0, row)
        alarms += monitor.state.alarm
        reference = answers(k, "ref", 20)[0]
        if k < 40:
            naive += any(
                logprob_drift({0: reference}, {0: stream[:n]}, permutations=99, seed=n).differ(0.05)
                for n in range(4, looks, 4)
            )
    assert Proportion.clopper_pearson(alarms, runs).low <= 0.05
    assert alarms / runs <= 0.06
    assert naive / 40 > 0.10


@pytest.mark.parametrize("quiet", [0, 100])
def test_a_change_is_seen_also_after_a_long_quiet_time(quiet: int) -> None:
    delays = []
    for k in range(10):
        monitor = DriftMonitor(answers(k, "ref", 40), error=0.01, seed=k)
        for row in answers(k, "quiet", quiet)[0]:
            monitor.see(0, row)
        assert not monitor.state.alarm
        changed = answers(k, "changed", 60, shift=0.5)[0]
        delays.append(next((n for n, row in enumerate(changed, 1) if monitor.see(0, row).alarm), 61))
    assert np.median(delays) < (12 if quiet else 9)


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="four"):
        DriftMonitor(answers(0, "a", 3))
    with pytest.raises(InvalidConfig, match="between 0 and 1"):
        DriftMonitor(answers(0, "a", 8), error=1.0)
    with pytest.raises(InvalidConfig, match="no reference for prompt 7"):
        DriftMonitor(answers(0, "a", 8)).see(7, {"a": -1.0})
    with pytest.raises(InvalidConfig, match="twice or more"):
        logprob_drift(answers(0, "a", 1), answers(0, "b", 5))
