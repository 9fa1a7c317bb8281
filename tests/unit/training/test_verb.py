"""``holdfast train`` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import card, load, manifest_of

CALL = ["train", "digits-cnn:channels=4", "--data", "digits", "--epochs", "2"]
RECIPE = "random-bit-error:rate=0.02,clip=0.3,start=always,gradient-clip=none,format=rquant4"


def test_a_training_writes_a_model_beside_its_journal_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call = [*CALL, "--recipe", RECIPE, "--schedule", "decay=cosine,per=batch,warmup=1,ema=0.9", "-o", "out", "--json"]
    assert main(call) == 0
    first = capsys.readouterr()
    value = json.loads(first.out)
    assert value["folder"] == "out"
    assert 0.1 < value["accuracy"]["value"] <= 1
    assert "test accuracy" in first.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["lineage", "model.json", "model.safetensors"]
    assert sorted(path.name for path in Path("out.training").iterdir()) == [
        "checkpoints.jsonl",
        "metrics.jsonl",
        "snapshot-000002.safetensors",
    ]
    kept = card(load("out")).lineage[-1].parameters
    assert (kept["recipe"], kept["rate"], kept["gradient_clip"]) == ("random-bit-error", 0.02, None)
    assert kept["schedule"]["ema"] == 0.9
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out) == value
    assert main([*call, "--lr", "0.2"]) == 2
    assert "parameters.schedule.lr differs" in capsys.readouterr().err


def test_a_model_can_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*CALL, "-o", "one"]) == 0
    assert main(["train", "one", "--data", "digits", "--epochs", "1", "--recipe", RECIPE, "-o", "two"]) == 0
    steps = card(load("two")).lineage
    assert [step.kind for step in steps] == ["build", "train", "train"]
    assert [step.parameters["recipe"] for step in steps[1:]] == ["standard", "random-bit-error"]
    assert steps[2].inputs["model"] == manifest_of(load("one")).digest


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--recipe", "random-bit-error:clop=0.1"], 2, "did you mean clip?"),
        (["--recipe", "random-bit-eror"], 2, "did you mean random-bit-error"),
        (["--recipe", "random-bit-error:pattern=1,chips=2"], 2, "one chip at one rate"),
        (["--recipe", "random-bit-error:clip=none,clip_scope=layer"], 2, "bounds nothing"),
        (["--recipe", "standard:schedule=3"], 2, "does not name its schedule"),
        (["--schedule", "warmp=1"], 2, "did you mean warmup?"),
        (["--schedule", "epochs=5"], 2, "--epochs 5"),
        (["--schedule", "warmup=3"], 2, "does not fit into 2"),
        (["--lr", "1e30"], 2, "in epoch 0, batch"),
        (["--keep", "3", "--every", "2"], 2, "not always one of"),
        (["--device", "nonsense"], 2, "no device 'nonsense'"),
        (["--device", "gpu", "--graphs"], 2, "no device 'gpu'"),
        (["--device", "", "--graphs"], 2, "no device ''"),
        (["--device", "meta"], 2, "no device 'meta'"),
        (["--device", "cuda:99"], 3, "no device 'cuda:99' here"),
        (["--device", "cpu", "--graphs"], 2, "no CUDA graphs on cpu"),
        (["--arch", "digits-cnn"], 2, "no model digits-cnn:channels=4"),
    ],
)
def test_bad_calls_say_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*CALL, "-o", "out", *change]) == code
    seen = capsys.readouterr()
    assert message in seen.err
    assert "Traceback" not in seen.err
    assert not Path("out").exists()
    assert not Path("out.training").exists()


def test_augmentation_changes_the_training_and_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    augmented = [*CALL, "--augment", "crop:padding=1", "--augment", "flip"]
    assert main([*CALL, "-o", "plain"]) == 0
    assert main([*augmented, "-o", "one"]) == 0
    assert main([*augmented, "-o", "two"]) == 0
    weights = [Path(name, "model.safetensors").read_bytes() for name in ("plain", "one", "two")]
    assert weights[0] != weights[1] == weights[2]
    assert "RandomCrop" in str(card(load("one")).lineage[-1].parameters)
    capsys.readouterr()
    assert main([*CALL, "-o", "one"]) == 2  # its snapshots are of another training
    assert "augment" in capsys.readouterr().err
    assert main([*CALL, "--augment", "crops", "-o", "three"]) == 2
    assert "crop" in capsys.readouterr().err
