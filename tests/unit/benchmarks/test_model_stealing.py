"""The tables of docs/model-stealing.md are those of the measured rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks._stealing import VICTIMS, with_slices
from benchmarks._stealing_report import figure, modes, tables

from holdfast.models import build_architecture

ROOT = Path(__file__).resolve().parents[3]
RESULTS = [ROOT / "benchmarks" / "results" / f"model_stealing_{task}.json" for task in ("digits", "cifar10")]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_line_of_the_tables_stands_in_the_documentation(path: Path) -> None:
    page = (ROOT / "docs" / "model-stealing.md").read_text()
    found = [line for line in tables(json.loads(path.read_text())["curves"]) if line]
    assert len(found) > 15
    for line in found:
        assert line in page, f"not in the page: {line}"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_all_arms_of_a_seed_met_one_judge_and_leads_are_differences(path: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(path.read_text())["curves"]
    assert {row["victim"] for row in rows} <= set(VICTIMS)
    bars = {_key(row): row for row in rows if row["placement"].startswith("whole")}
    for row in rows:
        bar = {point["budget"]: float(point["fidelity"]["value"]) for point in bars[_key(row)]["points"]}
        for point in row["points"]:
            lead = point.get("ahead of the black box")
            if lead is not None:
                difference = float(point["fidelity"]["value"]) - bar[point["budget"]]
                assert float(lead["value"]) == pytest.approx(difference, abs=1e-9)


def _key(row: dict[str, Any]) -> tuple[int, str, bool]:
    return row["seed"], row["victim"], row["public"]


def test_one_seed_keeps_its_interval_and_several_have_students() -> None:
    one = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert figure([one], 0.0) == "50.0 [40.0, 60.0]"
    both = figure([one, {"value": 0.6, "low": 0.5, "high": 0.7}], 0.0, "+")
    assert both == "+55.0 [+0.0, +100.0]"  # two seeds, five points either way: 12.7 times that, cut to the range
    three = figure([{"value": 0.5 + step, "low": 0.4, "high": 0.6} for step in (-0.1, 0.0, 0.1)], 0.0)
    assert three == "50.0 [25.2, 74.8]"  # 4.303 * 0.1 / sqrt(3)
    assert figure([one] * 4, 0.0) == "50.0 [45.0, 55.0]"  # seeds that agree have the images' width, by sqrt(4)


@pytest.mark.parametrize("name", ["digits-cnn:channels=4", "cifar-resnet20"])
def test_slices_begin_as_nothing(name: str) -> None:
    public = build_architecture(name, seed=3).eval()
    made = with_slices(public)
    images = torch.rand(
        2, *((1, 8, 8) if "digits" in name else (3, 32, 32)), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        assert torch.equal(made(images), public(images))
    extra = sum(value.numel() for value in made.parameters()) - sum(value.numel() for value in public.parameters())
    assert 0 < extra < sum(value.numel() for value in public.parameters())


def test_the_threat_model_has_the_figures_of_every_mode() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    found = list(modes(json.loads(RESULTS[0].read_text())["curves"], 100))
    assert len(found) == 2 + 11
    for line in found:
        assert line in page, f"not in the page: {line}"
