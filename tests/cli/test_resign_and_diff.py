"""``holdfast resign`` and ``holdfast diff`` as a person meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from holdfast.cli import main
from holdfast.signing import load_signer
from holdfast.signing.manifests import write_manifest


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["keygen", "author"]) == 0
    (tmp_path / "m").mkdir()
    save_file({"w": torch.ones(4)}, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "README.md").write_text("a")
    write_manifest(tmp_path / "m", load_signer("file:author.pem"))
    return tmp_path / "m"


def test_resign_says_what_it_read(signed: Path, capsys: pytest.CaptureFixture[str]):
    (signed / "README.md").write_text("b")
    call = ["resign", "m", "--key", "file:author.pem", "--trust", "author.pub", "--sample", "5%", "--json"]
    assert main(call) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["version"], seen["hashed"], seen["reused"]) == (1, ["README.md", "model.safetensors"], [])
    assert main([*call, "--sample", "much"]) == 2
    assert main([*call, "--trust", "nobody.pub"]) == 2


def test_resign_refuses_a_signature_of_others(signed: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["keygen", "other"]) == 0
    assert main(["resign", "m", "--key", "file:author.pem", "--trust", "other.pub"]) == 1
    assert "trusted" in capsys.readouterr().err


def test_diff_tells_people_and_programs(signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "n").mkdir()
    save_file({"w": torch.zeros(4)}, tmp_path / "n" / "model.safetensors")
    (tmp_path / "n" / "README.md").write_text("a")
    assert main(["diff", "m", "n"]) == 0
    seen = capsys.readouterr()
    assert seen.out.splitlines() == [
        "1 of 1 tensors changed:",
        "  w",
        "only 1 of 2 files changed:",
        "  model.safetensors",
    ]
    assert "as read" in seen.err
    assert main(["diff", "m", "n", "--json", "--exit-code"]) == 1
    assert json.loads(capsys.readouterr().out)["tensors"]["changed"] == ["w"]
    assert main(["diff", "m", "m", "--exit-code", "--trust", "author.pub"]) == 0
    assert "as signed" in capsys.readouterr().err
    assert main(["diff", "m", "n", "--trust", "author.pub"]) == 1  # n is not signed
