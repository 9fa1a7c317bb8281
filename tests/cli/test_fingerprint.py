"""``holdfast fingerprint`` records, learns, and says beside every figure what it takes to get it without learning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import save
from tests.nets import trained_digits

FORMATS = ("--platform", "bf16", "--platform", "fp8-e4m3", "--platform", "fp32", "--platform", "bypass")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fingerprint") / "model"
    save(trained_digits(), folder)
    return folder


@pytest.fixture(scope="module")
def traces(stored: Path) -> Path:
    folder = stored.parent / "traces"
    for run in ("a", "b"):
        assert main(["fingerprint", "record", str(stored), *FORMATS, "-n", "40", "--run", run, "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def learned(traces: Path) -> Path:
    folder = traces.parent / "fingerprint"
    assert main(["fingerprint", "train", str(traces), "--size", "5", "-o", str(folder)]) == 0
    return folder


def test_training_prints_held_out_figures_beside_baselines_and_matching(traces: Path, tmp_path: Path, capsys) -> None:
    assert main(["fingerprint", "train", str(traces), "--size", "5", "-o", str(tmp_path / "fp"), "--json"]) == 0
    said = capsys.readouterr()
    value = json.loads(said.out)
    assert value["labels"] == ["bf16", "bypass = fp32", "fp8-e4m3"]
    assert [item["name"] for item in value["scores"]] == ["ovo-svm", "majority", "trailing zeros", "zero counts"]
    assert value["scores"][0]["f1"]["bf16"]["value"] == value["scores"][2]["f1"]["bf16"]["value"] == 1.0
    assert value["matching"]["accuracy"]["value"] == 1.0
    for words in ("held out by inputs", "trailing zeros", "chance", "which is no evidence", "reference matching"):
        assert words in said.err


def test_unseen_inputs_are_judged_and_seen_ones_refused(
    stored: Path, traces: Path, learned: Path, tmp_path: Path, capsys
) -> None:
    given = ["fingerprint", "record", str(stored), *FORMATS, "-n", "40", "--seed", "1", "-o", str(tmp_path / "new")]
    assert main(given) == 0
    assert main(["fingerprint", "eval", str(learned), str(tmp_path / "new"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["scores"][0]["f1"]["bf16"]["value"] > 0.9
    assert main(["fingerprint", "eval", str(learned), str(traces)]) == 1
    assert "leakage" in capsys.readouterr().err


def test_one_trace_is_named_by_votes(stored: Path, learned: Path, tmp_path: Path, capsys) -> None:
    assert main(["run", str(stored), "--probes", "40", "--platform", "bf16", "--seed", "5", "-o", str(tmp_path)]) == 0
    assert main(["fingerprint", "name", str(learned), str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["platform"] == "bf16"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--by", "machine"), "share one machine"),
        (("--by", "day"), "no 'day' to split by"),
        (("--method", "forest"), "unknown classifier 'forest'"),
        (("--size", "1000"), "make no example of 1000"),
        (("--folds", "3", "--by", "inputs", "--by", "model"), "share one model"),
    ],
)
def test_calls_that_cannot_work_exit_2(traces: Path, tmp_path: Path, capsys, more: tuple[str, ...], why: str) -> None:
    assert main(["fingerprint", "train", str(traces), "-o", str(tmp_path / "fp"), *more]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "fp").exists()


def test_runs_are_named_once_and_platforms_must_exist(stored: Path, traces: Path, capsys) -> None:
    given = ["fingerprint", "record", str(stored), "-n", "40", "--run", "a", "-o", str(traces)]
    assert main([*given, "--platform", "bf16"]) == 2
    assert "holds a recording already" in capsys.readouterr().err
    assert main([*given, "--platform", "mxint9"]) == 2
    assert "mxint8" in capsys.readouterr().err
    assert main([*given, "--platform", "bf16", "--shape", "big"]) == 2
    assert "is no shape" in capsys.readouterr().err


def test_what_cannot_be_held_out_is_named(traces: Path, learned: Path, tmp_path: Path, capsys) -> None:
    for call in (["eval", str(learned), str(traces)], ["train", str(traces), "-o", str(tmp_path / "fp")]):
        capsys.readouterr()
        assert main(["fingerprint", *call, "--by", "nope"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: examples have no 'nope' to split by"), (
            said
        )  # and no bar that never moved above it
        assert "inputs, run, machine or model" in said
