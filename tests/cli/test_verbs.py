"""The command line as a person meets it: help, exit codes, one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import VERBS, main
from holdfast.models import build_architecture, save


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_helps_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example: holdfast" in text
    assert f"holdfast {verb}" in text


def test_unknown_verbs_and_missing_arguments_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verfy"]) == 2
    assert "did you mean verify" in capsys.readouterr().err
    assert main(["verify"]) == 2
    assert main([]) == 2
    assert main(["--version"]) == 0


def one_json(text: str) -> dict[str, object]:
    assert len(text.strip().splitlines()) == 1
    return json.loads(text)


def test_sign_verify_tamper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn"), tmp_path / "m")
    assert main(["keygen", "author", "--json"]) == 0
    fingerprint = one_json(capsys.readouterr().out)["fingerprint"]
    assert (tmp_path / "author.pem").stat().st_mode & 0o77 == 0
    assert main(["keygen", "author"]) == 3
    assert main(["sign", "m", "--key", "file:author.pem", "--json"]) == 0
    assert one_json(capsys.readouterr().out)["signer"] == fingerprint
    assert main(["verify", "m", "--trust", "author.pub", "--json"]) == 0
    assert one_json(capsys.readouterr().out)["files"] == 2
    with (tmp_path / "m" / "model.json").open("a") as file:
        file.write(" ")
    assert main(["verify", "m", "--trust", "author.pub", "--json"]) == 1
    seen = capsys.readouterr()
    assert one_json(seen.out)["kind"] == "DigestMismatch"
    assert "model.json changed" in seen.err


def test_encrypted_key_takes_its_password_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pw").write_text("hunter2\n")
    (tmp_path / "bad").write_text("wrong\n")
    (tmp_path / "model.bin").write_text("weights")
    assert main(["keygen", "k", "--kind", "ed25519", "--password-file", "pw"]) == 0
    assert b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()
    assert main(["sign", "model.bin", "--key", "file:k.pem"]) == 2
    assert main(["sign", "model.bin", "--key", "file:k.pem", "--password-file", "bad"]) == 2
    assert main(["sign", "model.bin", "--key", "file:k.pem", "--password-file", "pw"]) == 0
    assert main(["verify", "model.bin", "--trust", "k.pub"]) == 0
    assert "hunter2" not in capsys.readouterr().err


CAMPAIGN = ["campaign", "m", "-o", "out", "--data"]
BAD = {
    "missing model": (["quantize", "none.safetensors", "--arch", "lenet", "-o", "out"], 2, "cannot read"),
    "unknown format": (["quantize", "m", "--format", "int88", "-o", "out"], 2, "did you mean int8"),
    "unknown architecture": (["quantize", "w.safetensors", "--arch", "lenett", "-o", "out"], 2, "did you mean lenet"),
    "unknown site": (["quantize", "m", "--at", "weights:cnov*", "-o", "out"], 2, "no site matches"),
    "rate": (
        ["campaign", "m", "--data", "digits", "--fault", "bit-errors:rate=2", "--trials", "1", "-o", "out"],
        2,
        "rate",
    ),
    "fault": ([*CAMPAIGN, "digits", "--fault", "bitflip", "--trials", "1"], 2, "bit-flip"),
    "data": ([*CAMPAIGN, "folder:none", "--trials", "1"], 2, "no folder"),
    "no trials": ([*CAMPAIGN, "digits"], 2, "trials"),
    "truncated": (["quantize", "cut.safetensors", "--arch", "digits-cnn", "-o", "out"], 2, "safetensors"),
    "no passport": (["check", "m", "--policy", "p.toml"], 1, "passport"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_gives_one_clear_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn"), tmp_path / "m")
    whole = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole)
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "p.toml").write_text('[[require]]\nkind = "shield"\n')
    arguments, code, words = BAD[case]
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "model.json").exists()


def test_inject_writes_a_broken_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn"), tmp_path / "m")
    whole = (tmp_path / "m" / "model.safetensors").read_bytes()
    call = ["inject", "m", "--fault", "bit-errors:rate=0.01", "--at", "weights:conv*", "--seed", "3", "--json", "-o"]
    assert main([*call, "a"]) == 0
    captured = capsys.readouterr()
    report = one_json(captured.out)
    assert report["flipped"].keys() == {"weights:conv1.weight", "weights:conv2.weight", "weights:conv3.weight"}
    assert f"{sum(report['flipped'].values()):,} of {report['bits']:,} bits flipped" in captured.err
    assert main([*call, "b"]) == 0
    broken = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert broken == (tmp_path / "b" / "model.safetensors").read_bytes() != whole
    flipped = sum((one ^ other).bit_count() for one, other in zip(broken, whole, strict=True))
    assert flipped == sum(report["flipped"].values())
    assert "wrote b" in capsys.readouterr().err
    assert main([*call, "b"]) == 0
    assert "replaced b" in capsys.readouterr().err
    assert main([*call, "m"]) == 2
    assert "overwrite" in capsys.readouterr().err
    assert main(["inject", "m", "--fault", "bit-errors:rate=1.5", "-o", "c"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == whole
