"""Second tries, memory that is too small, models that do not repeat, and stores of other machines and versions."""

from __future__ import annotations

import logging
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import DigestMismatch, InvalidConfig, TrialError, UnsupportedVersion
from holdfast.execution import CampaignReport, campaign, describe_platform
from holdfast.faults import BitFlip
from tests.unit.execution.gate import images
from tests.unit.execution.test_outcomes import Scores

FOUR = images(1.0, -1.0, 2.0, 0.5, labels=[0, 1, 0, 0])
RIGHT = {"masked", "corrected", "latent"}


def test_what_flowed_is_transient_and_what_is_stored_persists(trained: nn.Module, digits: Dataset) -> None:
    options = {"trials": 60, "seed": 0, "rerun": True}
    for at, expected in (("activations", "transient"), ("weights", "persistent")):
        report = campaign(trained, digits, BitFlip(), at=at, **options)  # type: ignore[arg-type]
        wrong = [row for row in report.rows if row.outcome not in RIGHT]
        assert wrong
        assert {row.rerun for row in wrong} == {expected}
        assert {row.rerun for row in report.rows if row.outcome in RIGHT} <= {None}
        plain = campaign(trained, digits, BitFlip(), at=at, trials=60, seed=0)
        assert [replace(row, rerun=None) for row in report.rows] == list(plain.rows)


class Haunted(nn.Module):
    """Once its input was negative, it stays so: the fault has gone by, what it did has not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.register_buffer("harm", torch.zeros(1))
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0], [0.0]]))
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any()):
            self.get_buffer("harm").fill_(3)
        return self.linear(x.flatten(1) - self.get_buffer("harm"))


def test_a_transient_fault_that_leaves_harm_behind_is_persistent() -> None:
    model = Haunted()
    report = campaign(model, FOUR.take(1), BitFlip(), at="inputs", trials=150, seed=0, rerun=True)
    negative = [row for row in report.rows if row.bit == 31]
    assert negative
    assert {(row.outcome, row.rerun) for row in negative} == {("critical", "persistent")}
    assert {row.rerun for row in report.rows if row.outcome == "sdc"} == {"transient"}
    assert model.get_buffer("harm").item() == 0  # and the next trial starts without it


def test_an_exception_is_tried_again_too() -> None:
    def react(_: nn.Module, weight: float) -> None:
        if weight < 0:
            raise IndexError("out of range")

    rows = campaign(Scores(react), FOUR, BitFlip(), at="weights", trials=100, seed=0, rerun=True).rows
    assert {row.rerun for row in rows if row.cause == "exception"} == {"persistent"}


class Hungry(nn.Module):
    """Has memory for ``most`` rows."""

    def __init__(self, inner: nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
        return self.inner(x)


def test_too_little_memory_halves_the_batch_and_loses_nothing(
    trained: nn.Module, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"at": "activations:inner.conv1", "trials": 60, "seed": 0}
    plenty = campaign(Hungry(trained, 1000), digits, BitFlip(), **options, batch=8)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        little = campaign(Hungry(trained, 8), digits, BitFlip(), **options, batch=32)  # type: ignore[arg-type]
    assert "out of memory with 32 inputs in one pass, going on with 16" in caplog.text
    assert [row.trial for row in little.rows] == list(range(60))
    assert [(row.site, row.element, row.bit, row.input, row.outcome) for row in little.rows] == [
        (row.site, row.element, row.bit, row.input, row.outcome) for row in plenty.rows
    ]
    with pytest.raises(TrialError, match="one input at a time does not fit"):
        campaign(Hungry(trained, 0), digits, BitFlip(), **options)  # type: ignore[arg-type]


class Restless(nn.Module):
    """Adds noise from a counter, as a model that samples would."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.turn = nn.Linear(1, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.turn += 1
        return self.linear(x.flatten(1)) + torch.tensor([0.0, float(self.turn % 2)])


def test_a_model_that_does_not_repeat_is_measured_and_refused() -> None:
    with pytest.raises(InvalidConfig, match=r"50\.0% of the outputs differ, by up to 1") as caught:
        campaign(Restless(), FOUR, BitFlip(), at="weights", trials=5)
    assert "use_deterministic_algorithms" in caught.value.hint


def finished(path: Path, **options: object) -> CampaignReport:
    return campaign(Scores(), FOUR, BitFlip(), at="weights", trials=50, seed=0, store=path, **options)  # type: ignore[arg-type]


def test_the_golden_answers_of_another_machine_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.sqlite"
    report = finished(path)
    other = replace(describe_platform(), cpu="another processor")
    monkeypatch.setattr(sys.modules["holdfast.execution.campaign"], "describe_platform", lambda: other)
    with pytest.raises(InvalidConfig, match="come from another platform") as caught:
        finished(path)
    assert "on the machine and software that began it" in caught.value.hint
    assert CampaignReport.load(path).digest == report.digest


def test_other_golden_answers_on_the_same_platform_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    finished(path)
    with closing(sqlite3.connect(path)) as db, db:
        (kept,) = db.execute("SELECT digest FROM goldens").fetchone()
        assert len(kept) == 64
        db.execute("UPDATE goldens SET digest = ?", ("0" * 64,))
    with pytest.raises(DigestMismatch, match="other golden answers"):
        finished(path)


OLD = """
CREATE TABLE campaigns (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, meta TEXT NOT NULL);
CREATE TABLE trials (
    campaign TEXT NOT NULL REFERENCES campaigns(name), trial INTEGER NOT NULL, site TEXT NOT NULL,
    element INTEGER NOT NULL, bit INTEGER NOT NULL, input INTEGER NOT NULL, outcome TEXT NOT NULL,
    max_ulp REAL, max_relative REAL, guard_events INTEGER NOT NULL,
    PRIMARY KEY (campaign, trial)) WITHOUT ROWID;
INSERT INTO campaigns VALUES ('baseline', 'f', '{"type": "holdfast.campaign/v1", "seed": 0}');
INSERT INTO trials VALUES ('baseline', 0, 'weights:weight', 0, 31, 2, 'critical', 7.0, 2.0, 0);
"""


def test_a_store_of_the_first_version_is_read_kept_and_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD)
    before = CampaignReport.load(path)
    assert (before.rows[0].outcome, before.rows[0].max_ulp, before.rows[0].divergence) == ("critical", 7.0, None)
    with pytest.raises(InvalidConfig, match="of an older version") as caught:
        finished(path)
    assert "name=" in caught.value.hint
    found = finished(path, name="anew")
    assert CampaignReport.load(path, "anew").rows == found.rows
    assert CampaignReport.load(path).rows == before.rows


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    finished(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(UnsupportedVersion, match="version 99"):
        finished(path)
    with pytest.raises(UnsupportedVersion, match="version 99"):
        CampaignReport.load(path)
