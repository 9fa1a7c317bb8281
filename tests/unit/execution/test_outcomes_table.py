"""Buckets of distance, causes, recovery, and tables that other tools read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, MissingExtra, UnknownName, UnreadableArtifact
from holdfast.execution import CampaignReport, Row, by_cause, by_distance, campaign, read_rows, recovered, write_rows
from holdfast.faults import BitFlip


@pytest.fixture(scope="module")
def report(trained: nn.Module, digits: Dataset) -> CampaignReport:
    return campaign(trained, digits, BitFlip(), at="activations", trials=150, seed=1, rerun=True)


def row(outcome: str, **found: float | str | None) -> Row:
    values = {"max_ulp": None, "max_relative": None, "guard_events": 0} | found
    return Row(0, "weights:w", 0, 0, 0, outcome, **values)  # type: ignore[arg-type]


def test_buckets_are_half_open_and_hold_tolerable_corruption() -> None:
    rows = [row("sdc", max_relative=value) for value in (1e-9, 1e-6, 5e-5, 0.5, 3.0)]
    rows += [row("critical", max_relative=0.5), row("masked", max_relative=0.0), row("due")]
    assert by_distance(rows) == {"< 1e-06": 1, "1e-06 .. 0.0001": 2, "0.0001 .. 0.01": 0, "0.01 .. 1": 1, ">= 1": 1}
    assert by_distance(rows, edges=[0.1], outcomes=("sdc", "critical")) == {"< 0.1": 3, ">= 0.1": 3}
    assert sum(by_distance(rows, "divergence").values()) == 0  # nobody measured it
    with pytest.raises(UnknownName, match="relative"):
        by_distance(rows, "relative")
    with pytest.raises(InvalidConfig, match="rise"):
        by_distance(rows, edges=[2, 1])


def test_every_tolerable_trial_lies_in_one_bucket(report: CampaignReport) -> None:
    for measure in ("max_ulp", "max_relative", "max_absolute", "divergence", "probability"):
        assert sum(by_distance(report.rows, measure).values()) == report.counts["sdc"] > 0


def test_causes() -> None:
    rows = [row("due", cause="hang"), row("due", cause="non-finite"), row("due"), row("sdc")]
    assert by_cause(rows) == {"non-finite": 1, "exception": 0, "hang": 1, "shape": 0, "unknown": 1}


def test_recovery_is_a_share_of_what_went_wrong(report: CampaignReport) -> None:
    wrong = sum(report.counts[name] for name in ("sdc", "critical", "due"))
    assert recovered(report.rows).n == wrong
    assert recovered(report.rows).value == 1.0
    with pytest.raises(InvalidConfig, match="a second time"):
        recovered([row("sdc")])


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_table_comes_back_as_it_was(report: CampaignReport, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"table{ending}"
    write_rows(reversed(report.rows), path, plan=report.plan)
    assert tuple(read_rows(path)) == report.rows
    assert CampaignReport.of(read_rows(path), name="x", plan={}).digest == report.digest


def test_other_tools_read_it(report: CampaignReport, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_rows(report.rows, tmp_path / "t.parquet", plan=report.plan)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 150
    assert json.loads(table.schema.metadata[b"holdfast.plan"])["seed"] == 1
    assert table.column("outcome").to_pylist() == [row.outcome for row in report.rows]
    write_rows(report.rows, tmp_path / "t.jsonl")
    first = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert (first["trial"], first["outcome"]) == (0, report.rows[0].outcome)


def test_an_older_table_lacks_columns(tmp_path: Path) -> None:
    known = {"trial": 0, "site": "weights:w", "element": 1, "bit": 2, "input": 3, "outcome": "sdc", "guard_events": 0}
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(known) + "\n")
    assert read_rows(path)[0].divergence is None


@pytest.mark.parametrize("content", ["{", "[1]", '{"trial": 1}', "\xff"])
def test_files_that_are_no_tables(tmp_path: Path, content: str) -> None:
    for ending in (".jsonl", ".parquet"):
        path = tmp_path / f"t{ending}"
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(UnreadableArtifact, match="no table"):
            read_rows(path)


def test_missing_things(report: CampaignReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableArtifact):
        read_rows(tmp_path / "absent.jsonl")
    with pytest.raises(UnknownName, match="csv"):
        write_rows(report.rows, tmp_path / "t.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as caught:
        write_rows(report.rows, tmp_path / "t.parquet")
    assert "holdfast[data]" in caught.value.hint
