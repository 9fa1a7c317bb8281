"""The stratified confidence sequence: its inequality, its coverage under the worst stop, and what it costs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from holdfast.errors import InvalidConfig
from holdfast.execution.strata_sequence import Layer, StratifiedSequence


def play(
    shares: np.ndarray, masses: np.ndarray, seed: int, *, rounds: int, confidence: float, margin: float = 0.03
) -> tuple[StratifiedSequence, list[tuple[float, float]]]:
    """Rounds of an adaptive allocation over endless strata of coins, and the interval after each."""
    generator, looks = np.random.default_rng(seed), []
    sequence = StratifiedSequence([Layer(None, float(mass)) for mass in masses], confidence)
    counts = np.full(len(masses), 3)
    for _ in range(rounds):
        pace = margin / sequence.variance(counts)
        values = [m * (generator.random(n) < p) for m, n, p in zip(masses, counts, shares, strict=True)]
        found = sequence.add(values, pace)
        looks.append((found.low, found.high))
        guess = sequence.guesses()
        spread = masses * np.sqrt(guess * (1 - guess))
        counts = np.maximum(1, np.round(12 * len(masses) * spread / spread.sum())).astype(int)
    return sequence, looks


@pytest.mark.parametrize(
    ("shares", "masses"),
    [
        ([0.9, 0.004, 0.0, 0.0], [0.05, 0.25, 0.4, 0.3]),  # a model's bits: one class fails, most never do
        ([0.02, 0.02], [0.5, 0.5]),
        ([0.5, 0.97, 0.1], [0.2, 0.3, 0.5]),
    ],
)
def test_all_intervals_of_a_run_hold_the_total_together(shares: list[float], masses: list[float]) -> None:
    """300 runs at 90 %, watched after every round: the share that is *ever* wrong stays below 10 %."""
    p, m = np.array(shares), np.array(masses)
    total, misses, runs = float(p @ m), 0, 300
    for seed in range(runs):
        _, looks = play(p, m, seed, rounds=8, confidence=0.9)
        misses += any(not low <= total <= high for low, high in looks)
    assert misses / runs < 0.1 + 3 * math.sqrt(0.09 / runs)


def test_small_strata_without_replacement_are_covered_and_become_exact() -> None:
    """Strata of 30 coins each, drawn to the end: the interval holds the true total all along and ends in it."""
    generator, runs, misses, ends = np.random.default_rng(7), 300, 0, []
    for _ in range(runs):
        strata = [0.4 * (generator.random(30) < 0.2), 0.6 * (generator.random(30) < 0.03)]
        total = float(sum(x.mean() for x in strata))
        sequence = StratifiedSequence([Layer(30, 0.4), Layer(30, 0.6)], 0.9)
        drawn = [generator.permutation(x) for x in strata]
        for start in range(0, 30, 6):
            found = sequence.add([x[start : start + 6] for x in drawn], 40.0)
            misses += not found.low <= total + 1e-12 or not found.high >= total - 1e-12
        ends.append((found.low, found.high, total))
    assert misses / runs < 0.1 + 3 * math.sqrt(0.09 / runs)
    assert all(low == high == pytest.approx(total) for low, high, total in ends)


def test_knowing_most_of_a_stratum_narrows_the_interval() -> None:
    """The finite-population correction: 90 values of a stratum of 100 say more than 90 of an endless one."""
    x = np.tile([1.0, 0.0, 0.0], 30)
    finite, endless = (StratifiedSequence([Layer(items, 1.0)]) for items in (100, None))
    for start in range(0, 90, 10):
        few = [np.array([10])]
        one, other = finite.variance(few[0]), endless.variance(few[0])
        a = finite.add([x[start : start + 10]], 0.1 / one)
        b = endless.add([x[start : start + 10]], 0.1 / other)
    assert a.width < 0.85 * b.width


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
def test_the_tangent_inequality_holds_for_every_coin(share: float) -> None:
    """Expected capital of one value, both sides, over a grid of stakes and guesses: never above one."""
    for stake, guess in itertools.product((0.05, 0.3, 0.74), (0.0, 0.02, 0.5, 0.98)):
        for sign in (1.0, -1.0):
            worth = [sign * stake * guess + math.log1p(sign * stake * (x - guess)) for x in (0.0, 1.0)]
            expected = (1 - share) * math.exp(worth[0]) + share * math.exp(worth[1])
            assert expected * math.exp(-sign * stake * share) <= 1 + 1e-12


def test_strata_that_never_fail_share_one_price() -> None:
    """All zeros: the bound is a rule of three over all draws, not one for each of forty strata."""
    masses = np.full(40, 1 / 40)
    sequence, looks = play(np.zeros(40), masses, 0, rounds=10, confidence=0.95, margin=0.001)
    n = int(sequence.n.sum())
    assert looks[-1][0] == 0.0
    assert 3.0 / n < looks[-1][1] < 3.0 * 3.69 / n  # never a Wald interval of width zero


def test_strata_beat_simple_random_draws_on_a_model_like_population() -> None:
    """One bit of 32 nearly always fails: strata reach the width with a fifth of the values that single draws need."""
    bits = np.array([30 / 32, 1 / 32, 1 / 32])
    shares = np.array([0.001, 0.9, 0.002])
    needed = []
    for masses, p in ((bits, shares), (np.ones(1), np.array([bits @ shares]))):
        sequence = StratifiedSequence([Layer(None, float(mass)) for mass in masses])
        generator, counts = np.random.default_rng(3), np.maximum(5, 60 * masses).astype(int)
        while sequence.estimate.width / 2 > 0.003:
            values = [m * (generator.random(n) < q) for m, n, q in zip(masses, counts, p, strict=True)]
            found = sequence.add(values, 0.003 / sequence.variance(counts))
            guess = sequence.guesses()
            spread = masses * np.sqrt(guess * (1 - guess)) + masses * 0.02
            counts = np.maximum(1, 0.2 * found.n * spread / spread.sum()).astype(int)
        needed.append(found.n)
    assert needed[0] * 5 < needed[1]


def test_evidence_against_the_truth_stays_small_and_against_a_lie_grows() -> None:
    sequence, _ = play(np.array([0.5, 0.02]), np.array([0.5, 0.5]), 1, rounds=30, confidence=0.95)
    assert sequence.evidence(0.26) < math.log(20)
    assert sequence.evidence(0.5) > math.log(1000)


def test_nonsense_is_refused() -> None:
    sequence = StratifiedSequence([Layer(3, 0.5), Layer(None, 0.5)])
    with pytest.raises(InvalidConfig, match="at least one"):
        sequence.add([np.zeros(1), np.zeros(0)], 1.0)
    with pytest.raises(InvalidConfig, match="gave 4"):
        sequence.add([np.zeros(4), np.zeros(1)], 1.0)
    with pytest.raises(InvalidConfig, match="outside"):
        sequence.add([np.ones(1), np.zeros(1)], 1.0)
