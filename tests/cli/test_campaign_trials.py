"""``holdfast campaign`` over trials: arms, plans, the page, and lists of faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.cli import main
from holdfast.models import build_architecture, save


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "net"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save(build_architecture("digits-cnn:channels=4").eval(), folder)
    return folder


def _run(model: Path, out: Path, *options: str, code: int = 0) -> None:
    call = ["campaign", str(model), "--data", "digits", "-o", str(out), "--seed", "1", *options]
    assert main(call) == code


def _record(folder: Path, kind: str = "fault-campaign") -> dict[str, Any]:
    return dict(json.loads((folder / f"{kind}.json").read_bytes()))


def test_guards_make_a_second_arm_that_meets_the_same_faults(model: Path, tmp_path: Path) -> None:
    _run(model, tmp_path / "run", "--trials", "60", "--guard", "range", "--traces", "1")
    hard = _record(tmp_path / "run", "fault-campaign-hardened")
    assert hard["facts"]["against"]["n"] == 60
    assert hard["facts"]["arm"] == hard["procedure"]["guards"][0] == "range"
    assert hard["inputs"]["calibration"] != hard["inputs"]["evaluation"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Where they hurt, plain" in page
    assert "Where they hurt, range" in page


def test_the_data_that_judge_do_not_calibrate(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.cli import _campaign_trials

    monkeypatch.setattr(
        _campaign_trials, "_calibration", lambda asked: _campaign_trials.evaluation_data("digits", model)
    )
    _run(model, tmp_path / "run", "--trials", "4", "--guard", "range", code=2)
    assert "calibrated on the very data" in capsys.readouterr().err


def test_saved_faults_are_met_again(model: Path, tmp_path: Path) -> None:
    _run(model, tmp_path / "one", "--trials", "40", "--at", "weights", "--save-faults", str(tmp_path / "f.jsonl"))
    listed = f"fault-list:path={tmp_path / 'f.jsonl'}"
    _run(model, tmp_path / "two", "--trials", "40", "--at", "weights", "--fault", listed)
    one, two = (_record(tmp_path / name) for name in ("one", "two"))
    assert one["facts"]["table"] == two["facts"]["table"]


def test_what_is_critical_may_be_said(model: Path, tmp_path: Path) -> None:
    """The same faults: where the best five of the golden classes count, fewer are critical, and none is lost."""
    found = {}
    for name, task in {"one": None, "five": "classification:critical=top-5", "far": "regression:relative=0.5"}.items():
        more = () if task is None else ("--task", task)
        _run(model, tmp_path / name, "--trials", "300", "--at", "weights", "--traces", "0", *more)
        record = _record(tmp_path / name)
        found[name] = {key: value["value"] for key, value in record["measured"].items()}
        assert record["procedure"]["task"]["name"] == (task or "classification").partition(":")[0]
        assert ("Task: " in record["facts"]["plan"][0]) == (task is not None)
    assert found["one"]["critical"] > found["five"]["critical"] > 0
    for name in ("five", "far"):
        assert found[name]["critical"] + found[name]["sdc"] == pytest.approx(
            found["one"]["critical"] + found["one"]["sdc"]
        )
        assert found[name]["masked"] == found["one"]["masked"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trials", "4", "--task", "segmentaton"), "did you mean segmentation"),
        (("--trials", "4", "--task", "segmentation:iou=7"), "an IoU lies between 0 and 1"),
        (("--trials", "4", "--task", "segmentation"), "(batch, classes, height, width)"),
        (("--trials", "4", "--task", "language"), "reads a text"),
        (("--chips", "4", "--task", "regression"), "contradict"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    _run(model, tmp_path / "run", *options, code=2)
    assert said in capsys.readouterr().err


def test_all_engines_and_executors_give_one_table(model: Path, tmp_path: Path) -> None:
    calls = (
        ("--engine", "hooks", "--batch", "1"),
        ("--engine", "suffix"),
        ("--engine", "suffix", "--executor", "processes:2"),
    )
    for number, call in enumerate(calls):
        _run(model, tmp_path / str(number), "--trials", "50", "--at", "weights,activations", *call)
    tables = {_record(tmp_path / str(number))["facts"]["table"] for number in range(len(calls))}
    assert len(tables) == 1


def test_a_margin_stops_by_itself_and_says_how(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(model, tmp_path / "run", "--margin", "5%", "--at", "weights", "--json")
    captured = capsys.readouterr()
    share = json.loads(captured.out)["measured"]["critical-or-due"]
    assert (share["high"] - share["low"]) / 2 <= 0.05
    assert "Neyman allocation" in captured.err


def test_every_bit_of_a_small_site_once(model: Path, tmp_path: Path) -> None:
    _run(model, tmp_path / "run", "--exhaustive", "--at", "weights:fc.bias", "--bits", "sign", "--data", "digits")
    record = _record(tmp_path / "run")
    assert record["procedure"]["trials"] == 10 * 500
    share = record["measured"]["critical-or-due"]
    assert share["low"] == share["value"] == share["high"]


def test_chips_and_trials_contradict_each_other(model: Path, tmp_path: Path) -> None:
    _run(model, tmp_path / "run", "--chips", "2", "--guard", "range", code=2)
    assert not (tmp_path / "run").exists()


MACHINE = """
[structure.memory]
kind = "dram"
sites = "weights:**"
bits = 1e9
events = 12
fluence = 4.1e10
tested_bits = 8.6e9

[structure.pipeline]
kind = "logic"
sites = "activations:**"
cross_section = 2e-10
"""


def test_cross_sections_give_failures_in_time(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "machine.toml").write_text(MACHINE)
    options = ("--trials", "80", "--at", "weights,activations", "--cross-sections", str(tmp_path / "machine.toml"))
    _run(model, tmp_path / "run", *options, "--guard", "range", "--traces", "0")
    printed = capsys.readouterr().err
    for kind in ("fault-campaign", "fault-campaign-hardened"):
        record = _record(tmp_path / "run", kind)
        found = record["facts"]["reliability"]
        assert set(found["critical-or-due"]["structures"]) == {"memory", "pipeline"}
        total = found["critical-or-due"]["total_fit"]
        assert total["low"] <= total["value"] <= total["high"]
        assert f"{total['value']:.3g} [{total['low']:.3g}, {total['high']:.3g}]" in printed
        assert "cross-sections" in record["inputs"]
    assert printed.count("MTTF") == 2
    assert "How often in time" in (tmp_path / "run" / "report.html").read_text()


def test_cross_sections_of_what_no_fault_strikes_are_refused_before_the_first_trial(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "machine.toml").write_text(MACHINE)
    options = ("--trials", "80", "--at", "weights", "--cross-sections", str(tmp_path / "machine.toml"))
    _run(model, tmp_path / "run", *options, code=2)
    assert "pipeline: the campaign strikes none of activations:**" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_law_that_no_beam_follows_gives_no_rate_and_loses_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "machine.toml").write_text(MACHINE)
    options = ("--at", "weights,activations", "--cross-sections", str(tmp_path / "machine.toml"))
    _run(model, tmp_path / "run", "--trials", "40", "--sampling", "layer-uniform", *options)
    assert "no FIT: memory: an upset strikes every bit alike" in capsys.readouterr().err
    assert _record(tmp_path / "run")["measured"]["critical"]["n"] == 40


def test_too_few_trials_for_a_structure_lose_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "machine.toml").write_text(MACHINE)
    options = ("--trials", "1", "--at", "weights,activations", "--cross-sections", str(tmp_path / "machine.toml"))
    _run(model, tmp_path / "run", *options)
    assert "no FIT: no trial of the campaign hit" in capsys.readouterr().err
    assert _record(tmp_path / "run")["measured"]["critical"]["n"] == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--save-faults", "faults.csv"), "a .jsonl or .parquet file, not faults.csv"),
        (("--save-faults", "faults.jsonl", "--fault", "bit-errors:rate=0.01"), "no faults of several bits"),
    ],
)
def test_lists_that_cannot_be_written_are_refused_before_the_first_trial(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], reason: str
) -> None:
    _run(model, tmp_path / "run", "--trials", "8", *options, code=2)
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "how many trials?"),
        (("--trials", "5", "--margin", "1%"), "--trials and --margin contradict each other"),
        (("--trials", "5", "--relative"), "--relative says how --margin is meant"),
        (("--margin", "150%"), "--margin lies between 0 and 100 %"),
        (("--trials", "5", "--at", "wieghts"), "did you mean weights?"),
        (("--trials", "5", "--bits", "99"), "no selected site has a bit 99"),
    ],
)
def test_refusals_speak_of_options(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], reason: str
) -> None:
    _run(model, tmp_path / "run", *options, code=2)
    assert reason in capsys.readouterr().err


def test_words_of_a_part_of_the_bits_of_a_list_and_of_second_tries(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = str(tmp_path / "f.jsonl")
    some = ("--trials", "30", "--at", "weights:fc.bias", "--bits", "exponent-high")
    _run(model, tmp_path / "one", *some, "--rerun", "--save-faults", faults)
    printed = capsys.readouterr().err
    assert "Population: 10 of the 320 bits in 1 site, with 500 inputs." in printed
    again = _record(tmp_path / "one")["facts"]["rerun"]
    assert again["transient"] == 0 < again["persistent"]
    assert f"{again['persistent']} did not" in printed
    _run(model, tmp_path / "two", "--trials", "30", "--at", "weights", "--fault", f"fault-list:path={faults}")
    assert "the shares are of its trials, and of no population" in capsys.readouterr().err


def test_costs_add_up_to_the_model_and_heat_follows_the_computation(model: Path, tmp_path: Path) -> None:
    _run(model, tmp_path / "run", "--trials", "200", "--at", "weights,activations", "--sampling", "layer-uniform")
    facts = _record(tmp_path / "run")["facts"]
    weights = [item["cost"] for name, item in facts["costs"].items() if name.startswith("weights:")]
    assert sum(weights) == pytest.approx(1.0)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.index(">relu</text>") < page.index(">conv2</text>")


def test_guards_calibrated_on_data_of_another_size(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / name / "0.png")
    data = f"folder:{tmp_path / 'images'}"
    _run(model, tmp_path / "run", "--trials", "4", "--guard", "range", "--calibrate", data, code=2)
    assert "the model does not take what the data holds" in capsys.readouterr().err
    assert main(["harden", str(model), "--calibrate", data, "--guard", "range", "-o", str(tmp_path / "tough")]) == 2
    assert "the model does not take what the data holds" in capsys.readouterr().err


def test_a_device_that_is_not_here_is_said_before_anything_runs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(model, tmp_path / "run", "--trials", "5", "--device", "cuda:99", code=3)
    assert "there is no device 'cuda:99' here" in capsys.readouterr().err
    assert not (tmp_path / "run" / "campaign.sqlite").exists()
    _run(model, tmp_path / "chips", "--chips", "5", "--device", "cuda:99", code=3)
    _run(model, tmp_path / "there", "--trials", "5", "--device", "cpu", "--engine", "lockstep", "--batch", "4")
    assert _record(tmp_path / "there")["procedure"]["engine"] == "lockstep"
