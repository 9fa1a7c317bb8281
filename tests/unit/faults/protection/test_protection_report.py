"""Reports: the published shares, experiment against exact theory, intervals that cover, costs."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.execution.condition import Population
from holdfast.faults import BitErrors, BitFlip, Protected
from holdfast.faults.protection import Secded, Tally, report
from holdfast.faults.protection.protocol import beyond
from holdfast.faults.protection.report import ProtectionReport, measure_time
from holdfast.models.site import Site
from holdfast.seeds import derive

WORDS = 50_000
MANY = Population((Site("weights", "w", (8 * WORDS,), "int8", 8),))
MIXED = Population(
    (
        Site("weights", "a", (40_003,), "int8", 8),
        Site("weights", "b", (50_001,), "rquant4", 4),
        Site("buffers", "c", (7,), "fp32", 32),
    )
)


@pytest.mark.parametrize(("rate", "published"), [(0.01, 0.135), (0.005, 0.041), (0.001, 0.0019)])
def test_secded_is_not_enough_as_published(rate: float, published: float) -> None:
    """Stutz et al. (MLSys 2021): the share of 64-bit words with two errors or more, of the data bits alone."""
    found = report(Protected(fault=BitErrors(rate=rate), by="secded", check_bits="safe"), MANY, chips=8, seed=1)
    exact = 1 - (1 - rate) ** 64 - 64 * rate * (1 - rate) ** 63
    assert found.expected_rate("failed") == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx(published, rel=0.02)
    assert found.failed.low < exact < found.failed.high


def test_check_bits_that_fail_too_cost_more_words() -> None:
    found = report(Protected(fault=BitErrors(rate=0.01), by="secded"), MANY, chips=2)
    exact = float(stats.binom.sf(1, 72, 0.01))
    assert exact == pytest.approx(0.1624, abs=5e-4)
    assert found.expected_rate("failed") == pytest.approx(exact)
    assert found.failed.low < exact < found.failed.high


@pytest.mark.parametrize(
    "by",
    [
        "secded",
        "secded:matrix=hamming,on-detect=zero",
        "secded:ways=7",
        "on-die-sec",
        "parity-zero",
        "parity-zero:word=32,on-detect=leave",
        "chipkill",
        "voting",
        "protect-bits:field=msb-1",
    ],
)
@pytest.mark.parametrize(("rate", "check_bits"), [(0.002, "fail"), (0.03, "fail"), (0.03, "safe")])
def test_experiment_meets_theory(by: str, rate: float, check_bits: str) -> None:
    fault = Protected(fault=BitErrors(rate=rate), by=by, check_bits=check_bits)
    found = report(fault, MIXED, chips=8)
    assert found.raw.low * 0.98 < rate < found.raw.high * 1.02
    for name in ("failed", "detected", "residual"):
        expected, share = found.expected_rate(name), getattr(found, name)
        if expected is None:
            assert by == "chipkill"
            continue
        # 95 % intervals of some eighty cases under fixed seeds: widened to three standard deviations
        slack = (share.high - share.low) * 0.3
        assert share.low - slack <= expected <= share.high + slack, name


def test_every_affected_word_has_one_fate() -> None:
    for by in ("secded", "on-die-sec", "parity-zero", "chipkill", "voting"):
        tally = report(Protected(fault=BitErrors(rate=0.03), by=by), MIXED, chips=2).tally
        assert tally.failed == tally.detected + tally.miscorrected + tally.missed
        assert tally.affected == tally.failed + tally.restored


def test_residual_words_are_counted_with_their_bits() -> None:
    found = report(Protected(fault=BitErrors(rate=0.02), by="secded"), MANY)
    drawn = Protected(fault=BitErrors(rate=0.02), by="secded").flips(MANY, derive(0, "chip", 0))
    (item,) = drawn
    flags = np.unpackbits(np.bincount(item.index, weights=item.mask, minlength=8 * WORDS).astype(np.uint8))
    per_word = flags.reshape(WORDS, 64).sum(1).astype(int)
    assert found.tally.residual == per_word.sum()
    assert found.tally.wrong == (per_word > 0).sum()
    assert found.tally.squares == (per_word**2).sum()


def test_the_interval_of_the_residual_rate_covers_as_it_says() -> None:
    """Bits of a word fall together; an interval that counted bits as independent would cover far less."""
    population = Population((Site("weights", "w", (8 * 500,), "int8", 8),))
    fault = Protected(fault=BitErrors(rate=0.02), by="secded")
    covered = naive = 0
    for seed in range(200):
        found = report(fault, population, seed=seed)
        exact = found.expected_rate("residual")
        assert exact is not None
        covered += found.residual.low < exact < found.residual.high
        plain = stats.binomtest(found.residual.successes, found.residual.n).proportion_ci(method="wilson")
        naive += plain.low < exact < plain.high
    assert 0.91 < covered / 200 < 0.99
    assert naive / 200 < 0.88


@pytest.mark.parametrize(
    ("by", "overhead"),
    [
        ("secded", 8 / 64),
        ("on-die-sec", 8 / 128),
        ("parity-zero", 1 / 8),
        ("parity-zero:word=64", 1 / 64),
        ("chipkill", 24 / 128),
        ("voting", 2.0),
    ],
)
def test_memory_overhead(by: str, overhead: float) -> None:
    found = report(Protected(fault=BitErrors(rate=0.0), by=by), MANY)
    assert found.memory_overhead == overhead
    assert found.tally == Tally()
    assert found.cost.safe_bits == 0
    assert report(Protected(fault=BitErrors(rate=0.0), by=by, check_bits="safe"), MANY).cost.safe_bits > 0


def test_there_is_no_theory_of_other_laws() -> None:
    found = report(Protected(fault=BitFlip(), by="secded", check_bits="safe"), MANY, chips=3)
    assert found.expected is None
    assert found.expected_rate("failed") is None
    assert (found.tally.data_errors, found.tally.restored, found.residual.value) == (3, 3, 0.0)


def test_an_empty_memory_reports_nothing() -> None:
    found = report(Protected(fault=BitErrors(rate=0.1), by="secded"), Population(()))
    assert (found.data_bits, found.residual.n, found.memory_overhead) == (0, 0, 0.0)
    assert found.residual.high == 1.0


@pytest.mark.parametrize("by", ["secded", "chipkill", "radar", "in-place-ecc", "voting"])
def test_time_is_measured_on_request(by: str) -> None:
    protection = Protected(fault=BitFlip(), by=by).protection
    timing = measure_time(protection)
    assert 0 < timing.encode < timing.decode < 60


def test_a_report_without_timing_has_none() -> None:
    population = Population((Site("weights", "w", (100,), "int8", 8),), lambda _: torch.zeros(100, dtype=torch.int8))
    found = report(Protected(fault=BitErrors(rate=0.1), by=Secded()), population)
    assert isinstance(found, ProtectionReport)
    assert found.timing is None
    assert report(Protected(fault=BitErrors(rate=0.1), by=Secded()), population, timing=True).timing is not None


@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("rate", [1e-9, 0.01, 0.4, 1.0])
def test_tails_of_independent_events(most: int, rate: float) -> None:
    assert beyond([rate] * 40, most) == pytest.approx(float(stats.binom.sf(most, 40, rate)), rel=1e-6)


def test_tails_of_tiny_chances_keep_their_digits() -> None:
    assert beyond([1e-15] * 72, 1) == pytest.approx(comb(72, 2) * 1e-30, rel=1e-9)
    assert beyond([], 0) == 0.0
    assert beyond([0.3, 0.5], 1) == pytest.approx(0.15)
