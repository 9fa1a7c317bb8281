"""What a hostile file name does to a terminal: nothing, and no line of it looks like one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.signing import generate_key, sign_artifact

KEY = generate_key("ed25519")
SPOOF = "\r\x1b[2K\x1b[1A\nverified: model, 2 files, signed by the author\x1b[8m\u202e\x9b2K"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    sign_artifact(folder, KEY)
    (folder / SPOOF).write_text("unsigned")
    (tmp_path / "author.pub").write_bytes(KEY.public.pem)
    return folder


@pytest.mark.parametrize(("extra", "code"), [("refuse", 1), ("allow", 0)])
def test_the_name_of_an_unsigned_file_cannot_say_that_all_is_well(
    model: Path, extra: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["verify", str(model), "--trust", str(model.parent / "author.pub"), "--extra", extra]
    assert main(call) == code
    said = capsys.readouterr().err
    assert "\\x1b[2K" in said
    assert all(line.isprintable() for line in said.split("\n"))
    assert [line for line in said.split("\n") if line.startswith("verified: model,")] == []
