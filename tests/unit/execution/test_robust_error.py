"""Robust error against answers worked out by hand; interruption, executors, optional stopping and refusals."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, StorageError, UnknownName, UnreadableArtifact
from holdfast.execution import Flips, Population, Restricted, RobustError, accuracy, inject, robust_error
from holdfast.faults import BitErrors, ErrorMapErrors, Protected
from holdfast.faults.map_file import ErrorMap, write_error_map
from holdfast.seeds import Seed, derive

from .gate import ONE, SIGN, TWO, Gate, images, sign_flips


@pytest.fixture
def gate() -> nn.Module:
    return Gate().eval()


def test_both_definitions_by_hand(gate: nn.Module) -> None:
    """Where the sign flips, image 1 becomes wrong and image 2 right: 1/2 as published, 2/2 as released."""
    found = robust_error(gate, TWO, Restricted(fault=BitErrors(rate=0.3), bits=SIGN), chips=40)
    flipped = sign_flips(0.3, 40)
    assert 5 < sum(flipped) < 25
    assert found.clean.value == 0.5
    assert found.per_chip == (0.5,) * 40
    assert found.per_chip_or_clean == tuple(1.0 if flip else 0.5 for flip in flipped)
    assert found.mean_or_clean.value == pytest.approx(0.5 + sum(flipped) / 80)
    assert found.flips == tuple(int(flip) for flip in flipped)
    assert found.per_image == (sum(flipped), 40 - sum(flipped))


def test_the_mean_is_the_rate_and_the_intervals_hold_it(gate: nn.Module) -> None:
    """With the sign alone at stake and one image, the robust error *is* the bit-error rate."""
    found = robust_error(gate, ONE, Restricted(fault=BitErrors(rate=0.2), bits=SIGN), chips=400)
    assert found.mean.value == sum(sign_flips(0.2, 400)) / 400
    assert found.mean.low < 0.2 < found.mean.high
    assert found.anytime.low < 0.2 < found.anytime.high
    assert found.anytime.width > found.mean.high - found.mean.low  # what holding at all times costs
    assert found.worst == 1.0
    assert found.per_chip[found.worst_chip] == 1.0
    assert found.cvar(0.1) == 1.0
    assert found.cvar(1.0) == pytest.approx(found.mean.value)
    assert found.quantile(0.5).value == 0.0


def test_all_bits_at_stake_against_the_formula(gate: nn.Module) -> None:
    """1.0 becomes negative with its sign; NaN where bit 30 alone of the exponent flips and the mantissa is not 0."""
    p = 0.1
    nan = p * (1 - p) ** 7 * (1 - (1 - p) ** 23)
    expected = p + (1 - p) * nan
    found = robust_error(gate, ONE, BitErrors(rate=p), chips=800)
    assert found.mean.value == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 800))
    # infinity and NaN alike show in the count, whether or not the answer is wrong
    assert found.nonfinite_chips / 800 == pytest.approx(p * (1 - p) ** 7, abs=0.03)
    assert sum(found.flips) / 800 == pytest.approx(32 * p, rel=0.05)


def test_without_errors_every_chip_is_the_clean_model(gate: nn.Module) -> None:
    found = robust_error(gate, TWO, BitErrors(rate=0.0), chips=3)
    assert found.per_chip == found.per_chip_or_clean == (0.5,) * 3
    assert found.flips == (0, 0, 0)
    assert accuracy(gate, TWO).value == 0.5


def test_the_worst_chip_can_be_met_again(trained: nn.Module, digits: Dataset) -> None:
    few, law = digits.take(64), BitErrors(rate=1e-4)
    found = robust_error(trained, few, law, chips=8, seed=3)
    with inject(trained, law, seed=derive(3, "chip", found.worst_chip)):
        assert 1 - accuracy(trained, few).value == pytest.approx(found.worst)


def test_fewer_chips_are_a_part_of_more(gate: nn.Module) -> None:
    few, many = (robust_error(gate, TWO, BitErrors(rate=0.1), chips=chips) for chips in (5, 20))
    assert many.per_chip[:5] == few.per_chip


def test_optional_stopping(gate: nn.Module) -> None:
    law = Restricted(fault=BitErrors(rate=0.1), bits=SIGN)
    found = robust_error(gate, ONE, law, chips=10, half_width=0.1)
    assert found.anytime.width <= 0.2
    assert 10 < found.chips < 1000
    before = robust_error(gate, ONE, law, chips=found.chips - 1)
    assert before.anytime.width > 0.2  # not one chip more than was needed
    assert robust_error(gate, ONE, law, chips=5, half_width=0.001, max_chips=12).chips == 12
    assert robust_error(gate, ONE, law, chips=30, half_width=0.9).chips == 30


def test_stopping_early_does_not_break_the_interval(gate: nn.Module) -> None:
    """Stop as soon as it looks good, 60 times over: the 90 % interval still misses at most about 6 times."""
    misses = 0
    for seed in range(60):
        law = Restricted(fault=BitErrors(rate=0.3), bits=SIGN)
        found = robust_error(gate, ONE, law, chips=2, half_width=0.25, seed=seed, confidence=0.9)
        misses += not found.anytime.low <= 0.3 <= found.anytime.high
    assert misses <= 12  # three standard deviations above six


@pytest.mark.parametrize("executor", ["inline", "processes:2"])
def test_executors_and_stores_change_nothing(
    trained: nn.Module, digits: Dataset, executor: str, tmp_path: Path
) -> None:
    few, law = digits.take(50), BitErrors(rate=1e-4)
    plain = robust_error(trained, few, law, chips=6, seed=2)
    for _ in range(2):  # the second time from the store
        again = robust_error(trained, few, law, chips=6, seed=2, executor=executor, store=tmp_path / "c.sqlite")
        assert again == plain
    wide = robust_error(trained, few, law, chips=2, half_width=0.2, executor=executor, seed=2)
    assert wide == robust_error(trained, few, law, chips=2, half_width=0.2, seed=2)


KILLED = """
import os, sys, torch
sys.path.insert(0, {here!r})
from gate import Gate, TWO, BitErrors
from holdfast.execution import robust_error
robust_error(Gate().eval(), TWO, BitErrors(rate=0.1), chips=30, store={store!r},
             progress=lambda done, most: os.kill(os.getpid(), 9) if done == 11 else None)
"""


def test_killed_and_resumed_equals_uninterrupted(gate: nn.Module, tmp_path: Path) -> None:
    store = tmp_path / "chips.sqlite"
    script = textwrap.dedent(KILLED).format(here=str(Path(__file__).parent), store=str(store))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT count(*), max(chip) FROM chips").fetchone() == (11, 10)
    seen: list[int] = []
    law = _Counting(rate=0.1)
    plain = robust_error(gate, TWO, BitErrors(rate=0.1), chips=30)
    with sqlite3.connect(store) as db:  # the same question asked through a law that counts its draws
        (text,) = db.execute("SELECT plan FROM plans").fetchone()
        db.execute("UPDATE plans SET plan = ?", (text.replace('"name": "bit-errors"', '"name": "_Counting"'),))
    found = robust_error(gate, TWO, law, chips=30, store=store, progress=lambda done, most: seen.append(done))
    assert found.per_chip == plain.per_chip
    assert found.per_image == plain.per_image
    assert seen == list(range(1, 31))
    assert _Counting.drawn == 19  # what was done is not done again


@dataclass(frozen=True, kw_only=True)
class _Counting:
    rate: float

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        _Counting.drawn = getattr(_Counting, "drawn", 0) + 1
        return BitErrors(rate=self.rate).flips(population, seed)


def test_a_store_of_another_question_is_refused(gate: nn.Module, tmp_path: Path) -> None:
    store, law = tmp_path / "chips.sqlite", BitErrors(rate=0.1)
    robust_error(gate, TWO, law, chips=3, store=store)
    with pytest.raises(InvalidConfig, match="differ in fault"):
        robust_error(gate, TWO, BitErrors(rate=0.2), chips=3, store=store)
    with pytest.raises(InvalidConfig, match="differ in data"):
        robust_error(gate, ONE, law, chips=3, store=store)
    with pytest.raises(InvalidConfig, match="differ in seed"):
        robust_error(gate, TWO, law, chips=3, store=store, seed=1)
    other = Gate()
    nn.init.constant_(other.weight, 2.0)
    with pytest.raises(InvalidConfig, match="differ in model"):
        robust_error(other, TWO, law, chips=3, store=store)
    robust_error(gate, TWO, BitErrors(rate=0.2), chips=3, store=store, name="another")  # its own name is free


def test_broken_stores(gate: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "not.sqlite").write_text("this is no database, and long enough to show it" * 30)
    with pytest.raises(UnreadableArtifact, match="no ledger"):
        robust_error(gate, TWO, BitErrors(rate=0.1), chips=1, store=tmp_path / "not.sqlite")
    with pytest.raises(StorageError, match="cannot use"):
        robust_error(gate, TWO, BitErrors(rate=0.1), chips=1, store=tmp_path / "missing" / "c.sqlite")


def test_the_model_is_left_as_it_was(gate: nn.Module) -> None:
    robust_error(gate, TWO, BitErrors(rate=0.5), chips=10)
    assert gate.weight.item() == 1.0


@dataclass(frozen=True, kw_only=True)
class _EachRead:
    """The sign flips in every other pass or so, drawn afresh."""

    each_read = True

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        hit = seed.key & 1
        index = torch.zeros(hit, dtype=torch.int64)
        return [Flips(population.sites[0], index, torch.full((hit,), 1 << 31))]


def test_a_fault_of_each_read_is_drawn_for_each_batch(gate: nn.Module) -> None:
    many = images(*[1.0] * 64, labels=[0] * 64)
    found = robust_error(gate, many, _EachRead(), chips=3, batch_size=1)
    assert all(0.2 < value < 0.8 for value in found.per_chip)  # within one chip, not all or nothing
    assert len(set(found.per_chip)) > 1
    assert found.flips == (None,) * 3


def test_activations_can_be_chips_too(trained: nn.Module, digits: Dataset) -> None:
    found = robust_error(trained, digits.take(40), BitErrors(rate=1e-3), at="activations", chips=3)
    assert found.mean.value > found.clean.value
    assert all(found.flips)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"chips": 0}, "at least one chip"),
        ({"half_width": 0.0}, "half-width"),
        ({"half_width": 5.0}, "half-width"),
        ({"chips": 10, "half_width": 0.1, "max_chips": 5}, "more than max_chips=5"),
        ({"confidence": 95}, "confidence"),
    ],
)
def test_nonsense_is_refused(gate: nn.Module, options: dict[str, float], text: str) -> None:
    with pytest.raises(InvalidConfig, match=text):
        robust_error(gate, TWO, BitErrors(rate=0.1), **options)
    with pytest.raises(UnknownName):
        robust_error(gate, TWO, BitErrors(rate=0.1), method="bootstrap")


def test_the_test_set_term_is_wilsons(gate: nn.Module) -> None:
    found = robust_error(gate, TWO, BitErrors(rate=0.0), chips=2)
    assert isinstance(found, RobustError)
    assert (found.test_set.low, found.test_set.high) == pytest.approx((0.09453, 0.90547), abs=1e-4)


def test_a_law_without_randomness_is_one_chip(gate: nn.Module, tmp_path: Path) -> None:
    """The whole memory fails wherever it begins: one chip, whatever is asked for, also behind other laws."""
    cells = np.arange(64)
    path = tmp_path / "map.npz"
    write_error_map(path, ErrorMap((1, 1, 64), cells, np.zeros(64, np.int8), np.zeros(64)))
    fixed, drawn = ErrorMapErrors(path=str(path), offset=3), ErrorMapErrors(path=str(path))
    restricted = Restricted(fault=fixed, bits=SIGN)
    for law in (fixed, Protected(fault=fixed, by="voting"), restricted):
        found = robust_error(gate, ONE, law, chips=6, half_width=0.1)
        assert (found.chips, found.random) == (1, False)
        assert (found.mean.low, found.mean.high) == (0.0, 1.0)
    assert robust_error(gate, ONE, restricted, chips=6).per_chip == (1.0,)
    varied = robust_error(gate, ONE, drawn, chips=6)
    assert (varied.chips, varied.random) == (6, True)
