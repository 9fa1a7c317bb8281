"""``holdfast harden --guard``: the words of the command line, what it writes and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import build_architecture, card, load, save


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn", seed=0), tmp_path / "m")
    return tmp_path / "m"


def harden(*words: str) -> int:
    return main(["harden", "m", "--calibrate", "digits", "-o", "tough", *words])


def test_guards_compose_in_the_order_given(model: Path, capsys: pytest.CaptureFixture[str]):
    assert harden("--guard", "range:per=channel,action=zero,slack=1.3", "--guard", "preset:ranger", "--json") == 0
    hardened = load(model.parent / "tough")
    value = json.loads(capsys.readouterr().out)
    assert value["guards"] == len(card(hardened).guards)
    assert {guard.site for guard in card(hardened).guards} >= {"relu#1", "/add", "fc", "relu"}
    steps = [step.parameters["method"] for step in card(hardened).lineage if step.kind == "harden"]
    assert steps == ["range", "preset:ranger"]


def test_without_guards_all_activations_are_restricted(model: Path):
    assert harden("--slack", "1.5") == 0
    step = card(load(model.parent / "tough")).lineage[-1]
    assert (step.parameters["method"], step.parameters["slack"]) == ("range-restriction", 1.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--guard", "rang"], "did you mean range"),
        (["--guard", "preset:maximal"], "preset-maximals"),
        (["--guard", "range:action=explode"], "choose one of clip, zero, resample, recompute"),
        (["--guard", "range:slck=2"], "did you mean slack"),
        (["--guard", "preset:maximals"], "no nn.Identity"),
        (["--guard", "range", "--slack", "2"], "--guard says"),
        (["--guard", "range:at=activations:nowhere"], "no site matches"),
    ],
)
def test_refusals_say_what_to_do(model: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert harden(*words) == 2
    assert says in capsys.readouterr().err
    assert not (model.parent / "tough" / "model.json").exists()
