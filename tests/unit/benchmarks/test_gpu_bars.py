"""The bars of a GPU: what is read out of the results, and on which side of a limit it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks import __main__ as command
from benchmarks._gpu_bars import BARS, table


def cases(**times: dict[str, float]) -> dict[str, Any]:
    return {"cases": [{"name": name, **figures} for name, figures in times.items()]}


def arm(clean: float, robust: float) -> dict[str, Any]:
    measured = {"clean-error": {"value": clean}, "robust-error@p=0.01": {"value": robust}}
    published = {"clean-error": 0.0463, "robust-error@p=0.01": 0.18}
    return {"measured": measured, "facts": {"published": {"values": published}}}


GOOD: dict[str, Any] = {
    "gpu_digest": cases(**{
        "resnet-152": {"gb_per_s": 510.0}, "resnet-152, tables and copy of roots": {"gb_per_s": 9.0, "ms": 3.0},
        "gpt2-xl": {"gb_per_s": 800.0}, "gpt2-xl, tables and copy of roots": {"gb_per_s": 9.0, "ms": 19.0},
    }),
    "gpu_bit_errors": cases(**{
        "p = 1e-09": {"ms": 0.01}, "p = 1e-06": {"ms": 0.014}, "p = 0.01": {"ms": 1.0, "copy_ms": 0.6},
    }),
    "gpu_randbet": cases(QAT={"ms": 10.0}, RandBET={"ms": 21.0}),
    "gpu_guards": cases(**{
        "checksums, counted": {"share": 0.05}, "checksums, in the product": {"share": 0.02}, "ranges": {"share": 0.009},
    }),
    "gpu_campaign": {"ratio": 6.0},
    "gpu_shield": {"cases": [
        {"network": "r", "batch": 1, "crossings": 2, "speed-up over whole": [9.0, 8.0, 10.0]},
        {"network": "r", "batch": 1, "crossings": 4, "speed-up over whole": [2.0, 1.0, 3.0]},
        {"network": "r", "batch": 1, "crossings": 0, "speed-up over whole": [1.0, 1.0, 1.0]},
        {"network": "v", "batch": 1, "crossings": 2, "speed-up over whole": [20.0, 8.0, 30.0]},
        {"network": "v", "batch": 1, "speed-up over whole": [99.0, 98.0, 100.0]},
    ]},
    "cifar10/results": {"arms": [arm(0.0463, 0.184), arm(0.045, 0.18)]},
}  # fmt: skip
FIGURES = [510.0, 19.0, 60.0, 1.4, 2.1, 0.9, 2.0, 6.0, 9.0, 0.4]


def written(folder: Path, results: dict[str, Any]) -> list[str]:
    for name, value in results.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(value))
    return list(table(folder))


def test_each_bar_reads_its_own_figure(tmp_path: Path) -> None:
    assert [bar.figure(GOOD[bar.benchmark]) for bar in BARS] == pytest.approx(FIGURES)
    lines = written(tmp_path, GOOD)
    assert len(lines) == len(BARS) == 10
    assert all(line.endswith("reached") for line in lines)


def test_a_result_that_is_not_there_is_not_measured(tmp_path: Path) -> None:
    assert all(line.endswith("not measured") for line in table(tmp_path))
    lines = written(tmp_path, {"gpu_campaign": {"ratio": 4.99}})
    assert sum(line.endswith("not measured") for line in lines) == 9
    assert sum(line.endswith("MISSED") for line in lines) == 1


def test_a_result_that_lacks_a_case_hides_no_other(tmp_path: Path) -> None:
    lines = written(tmp_path, GOOD | {"gpu_guards": cases(ranges={"share": 0.005}), "gpu_shield": {"cases": []}})
    assert sum("not readable" in line for line in lines) == 2
    assert sum(line.endswith("reached") for line in lines) == 8


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: bar.name)
def test_a_limit_belongs_to_what_reaches_it(bar: Any) -> None:
    worse = -1e-6 if bar.least else 1e-6
    assert bar.reached(bar.limit)
    assert not bar.reached(bar.limit + worse)
    assert not bar.reached(float("nan"))


def test_every_bar_is_of_a_benchmark_that_there_is() -> None:
    assert {bar.benchmark for bar in BARS} - {"cifar10/results"} <= set(command.names(gpu=True))


def test_what_takes_too_long_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "names", lambda **_: ["startup"])
    monkeypatch.setattr("sys.argv", ["benchmarks", "--gpu", "--limit", "0.01", "--out", str(tmp_path / "results")])
    assert command.main() == 1
    said = capsys.readouterr()
    assert "ended after 0.01 seconds" in said.err
    assert "failed: startup" in said.err
    assert said.out.count("not measured") == 10
