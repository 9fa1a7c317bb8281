"""Where a verb may write: never over the model it reads, and known before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import build_architecture, save

QUANTIZE = ["quantize", "m"]
HARDEN = ["harden", "m", "--calibrate", "digits"]
TRAIN = ["train", "m", "--data", "digits", "--epochs", "1"]
VERBS = pytest.mark.parametrize("call", [QUANTIZE, HARDEN, TRAIN], ids=lambda call: call[0])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(build_architecture("digits-cnn:channels=4"), tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@VERBS
@pytest.mark.parametrize("out", ["m", "./m", "link", "other/../m"])
def test_the_model_that_is_read_is_never_overwritten(
    here: Path, call: list[str], out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "link").symlink_to("m")
    before = contents(here)
    assert main([*call, "-o", out]) == 2
    assert f"{Path(out)} would overwrite the model it comes from" in capsys.readouterr().err
    assert contents(here) == before


def test_a_weight_file_inside_the_target_is_the_model_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(here)
    call = ["quantize", "m/model.safetensors", "--arch", "digits-cnn:channels=4", "-o", "m"]
    assert main(call) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert contents(here) == before


@VERBS
@pytest.mark.parametrize("out", ["taken", "taken/out"])
def test_a_file_in_the_way_is_found_before_the_work(
    here: Path, call: list[str], out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("holdfast.models.load", lambda *_, **__: pytest.fail("work began"))
    (here / "taken").write_text("mine")
    before = contents(here)
    assert main([*call, "-o", out]) == 3
    assert f"cannot write {out}: {here / 'taken'} is a file" in capsys.readouterr().err
    assert contents(here) == before  # no journal either


def test_a_folder_without_permission_is_found_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert main([*TRAIN, "-o", "out"]) == 3
    assert "takes no files" in capsys.readouterr().err
    assert not Path("out.training").exists()
