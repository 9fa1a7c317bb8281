"""``holdfast campaign`` over text: a language model that answers by a rule, and the real one where it is at hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from holdfast.cli import main
from holdfast.evidence.record import Record
from holdfast.execution import language
from holdfast.models import build_architecture, save
from tests.away import AWAY, away

NET = "llama:dim=16,inner=24,layers=2,heads=2,groups=2,vocabulary=263,context=64"
CALL = ["campaign", "m", "--data", "wikitext2:text", "-o", "run", "--windows", "2", "--prompts", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(build_architecture(NET), tmp_path / "m")
    pieces = [b"?", b"<s>", b"</s>"] + [b"<0x%02X>" % byte for byte in range(256)] + [b"a", b"b", b" ", b" a"]
    body = b"".join(struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    (tmp_path / "m" / "tok.bin").write_bytes(struct.pack("<i", 8) + body)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "valid.txt").write_text("abba baab " * 60)
    return tmp_path


def test_a_quantised_model_keeps_its_tokenizer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "m" / "tokenizer.json").write_text("{}")
    (folder / "m" / "notes.txt").write_text("mine")
    assert main(["quantize", "m", "-o", "small"]) == 0
    assert {path.name for path in Path("small").iterdir()} == {
        "lineage",
        "model.json",
        "model.safetensors",
        "tok.bin",
        "tokenizer.json",
    }
    assert Path("small/tok.bin").read_bytes() == Path("m/tok.bin").read_bytes()
    assert main(["campaign", "small", *CALL[2:], "--rates", "0", "--chips", "1"]) == 0


def test_rates_over_text(capsys: pytest.CaptureFixture[str]) -> None:
    call = [*CALL, "--rates", "0,1e-3", "--chips", "3", "--json"]
    assert main(call) == 0
    seen = capsys.readouterr()
    record = json.loads(seen.out)
    assert record["kind"] == "language-bit-errors"
    assert record["measured"]["predictions-moved@p=0"]["value"] == 0.0
    assert record["facts"]["points"]["p=0"]["median_ratio"] == 1.0
    assert record["measured"]["predictions-moved@p=0.001"]["value"] > 0.1
    assert record["measured"]["perplexity"]["n"] == 2
    assert "no better than guessing" in seen.err
    assert Record.from_bytes(Path("run/language-bit-errors.json").read_bytes()).to_json() == record
    assert main(call) == 0  # from the store
    assert json.loads(capsys.readouterr().out) == record


def test_fields_over_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--fault", "bit-errors:rate=1e-3", "--by", "field", "--chips", "3", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    moved = {name: measured[f"predictions-moved@{name}"]["value"] for name in ("mantissa", "exponent", "sign")}
    assert moved["exponent"] > moved["mantissa"]


@pytest.mark.parametrize("options", [["--rates", "0,1e-3"], ["--fault", "bit-errors:rate=1e-3", "--by", "field"]])
@pytest.mark.parametrize("model", [pytest.param("m", marks=pytest.mark.slow), "small"])
def test_chips_on_a_device(
    model: str, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in takes the place of a GPU; what it measures are the CPU's bits, and the record names it."""
    assert main(["quantize", "m", "-o", "small"]) == 0
    call = ["campaign", model, *CALL[2:4], "--windows", "2", "--prompts", "2", "--chips", "2", *options, "--json"]
    assert main([*call, "-o", "here"]) == 0
    capsys.readouterr()
    here = Record.from_bytes(Path("here/language-bit-errors.json").read_bytes())
    for place in ("holdfast._device", "holdfast.assessment.chips"):
        monkeypatch.setattr(f"{place}.device_named", lambda name, start=False: AWAY)
    seen: list[torch.device] = []
    plain = language._logits
    monkeypatch.setattr(language, "_logits", lambda *args: seen.append(args[1].device) or plain(*args))
    with away():
        assert main([*call, "-o", "there", "--device", "cuda"]) == 0
    there = Record.from_bytes(Path("there/language-bit-errors.json").read_bytes())
    assert set(seen) == {AWAY}
    assert there.measured == here.measured
    assert there.facts == here.facts
    assert there.procedure == here.procedure | {"device": AWAY.type}
    assert there.subject == here.subject


def test_a_device_that_is_not_here_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, "--rates", "0.1", "--device", "cuda:77"]) == 3
    assert "there is no device 'cuda:77' here" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--compare", "m", "--rates", "0.1"], "--compare takes images"),
        (["--half-width", "0.1"], "--half-width takes images"),
        (["--rates", "1.5"], "between 0 and 1"),
        (["--rates", "0.1", "--collapse", "0.5"], "collapses above"),
        (["--rates", "0.1", "--at", "activations"], "flows"),
    ],
)
def test_contradictions(options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, *options]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


def test_a_text_without_a_tokenizer(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "m" / "tok.bin").unlink()
    assert main([*CALL, "--rates", "0.1"]) == 2
    assert "names no tokenizer" in capsys.readouterr().err


def test_an_image_model_cannot_read(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    save(build_architecture("digits-cnn"), folder / "images")
    call = ["campaign", "images", "--data", "wikitext2:text,tokenizer=m/tok.bin", "--rates", "0.1", "-o", "run"]
    assert main(call) == 2
    assert "it is no language model" in capsys.readouterr().err


def test_the_real_model(capsys: pytest.CaptureFixture[str], shared_data: Path) -> None:
    call = ["campaign", str(shared_data / "tiny-llama-260k"), "--data", f"wikitext2:{shared_data / 'wikitext-2'}"]
    assert main([*call, "--rates", "1e-4", "--chips", "2", "--windows", "4", "-o", "run", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert 200 < measured["perplexity"]["value"] < 400
    assert measured["texts-changed@p=0.0001"]["value"] == 1.0
