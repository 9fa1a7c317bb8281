"""Whole campaigns: the table is that of the plain engine at batch 1, whatever the batch, the guards or the memory."""

from __future__ import annotations

import pytest
from torch import nn

from holdfast.data import Dataset
from holdfast.execution import campaign
from holdfast.execution.trials import Row
from holdfast.faults import BitFlip
from holdfast.hardening import harden
from holdfast.hardening.guards.range_protection import RangeMethod
from holdfast.quantization import quantize


def table(model: nn.Module, data: Dataset, *, at: str = "weights,activations,buffers", **options: object) -> list[Row]:
    report = campaign(model, data, BitFlip(), at=at, trials=60, seed=3, **options)
    return list(report.rows)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    return digits.take(8)


def test_rows_are_those_of_whole_passes(trained: nn.Module, few: Dataset) -> None:
    plain = table(trained, few, engine="hooks", batch=1)
    assert table(trained, few, engine="suffix", batch=1) == plain
    assert table(trained, few, engine="suffix", batch=13) == plain
    assert table(trained, few, engine="auto:least=0", batch=13) == plain
    assert len({row.outcome for row in plain}) > 1


def test_any_executor_gives_the_same_rows(trained: nn.Module, few: Dataset) -> None:
    assert table(trained, few, engine="suffix", executor="processes:2") == table(trained, few, engine="suffix")


def test_guards_act_in_the_replay_and_count_what_they_count_in_a_whole_pass(trained: nn.Module, few: Dataset) -> None:
    # so tight that clean values trip it too
    tight = RangeMethod(at="activations:**", slack=1.0).calibrated(trained, few.take(4))
    guarded = harden(trained, tight)
    plain = table(guarded, few, engine="hooks", batch=1, at="weights,activations")
    assert table(guarded, few, engine="suffix", batch=7, at="weights,activations") == plain
    assert sum(row.guard_events for row in plain) > 0
    bare = table(trained, few, engine="suffix", at="weights,activations")
    assert [row.max_relative for row in plain] != [row.max_relative for row in bare]


def test_stored_codes_fail_as_in_a_whole_pass(trained: nn.Module, few: Dataset) -> None:
    coded = quantize(trained, "int8")
    at = "weights,qparams,activations"
    assert table(coded, few, engine="suffix", batch=9, at=at) == table(coded, few, engine="hooks", batch=1, at=at)
