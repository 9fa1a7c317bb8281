"""``holdfast identify`` names class, confidence, runner-up and the evidence, and says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.cli import main
from holdfast.data import probes
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, collect_platforms, trace_on
from holdfast.identification.library import Library
from holdfast.identification.library.records import Machine
from holdfast.models import build_architecture
from holdfast.signing.passport import write_passport
from holdfast.signing.signers import load_signer, require_key
from tests.answered import collect, stack

NAMES = ("default", "onednn-off", "bf16", "fp16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("identify")
    model = build_architecture("digits-cnn", seed=0).eval()
    data = probes("uniform", n=16, shape=(1, 8, 8), seed=0)
    found = collect_platforms(model, data, NAMES)
    for name, trace in found.items():
        trace.save(made / "references" / name)
    found["default"].save(made / "references" / "twin")
    trace_on(LOCAL_PLATFORMS["onednn-off"], model, data).save(made / "target")
    wide = found["onednn-off"].outputs.double()
    rounded = Trace(((wide * 1e4).round() / 1e4).float(), data.digest, found["default"].model_digest, {})
    rounded.save(made / "rounded")
    library = Library()
    for name, trace in found.items():
        library.add(name, Machine("cpu", (), "system", {}), {"net": trace})
    library.save(made / "library")
    return made


def said(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = main(["identify", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


@pytest.mark.parametrize("against", ["references", "library"])
def test_the_answer_names_class_confidence_runner_up_and_evidence(folder: Path, capsys, against: str) -> None:
    code, found, text = said(capsys, folder / "target", "--against", folder / against, "--error", 0.01)
    assert code == 0
    assert (found["platform"], found["decided"], found["grid"]) == ("onednn-off", "word equality", "fp32")
    assert found["confidence"] > 0.99
    assert found["runner_up"]["probability"] < 1e-6
    assert found["sequential"]["platform"] == "onednn-off"
    assert found["sequential"]["asked"] < 16
    assert "platform: onednn-off, confidence 0.99" in text or "platform: onednn-off, confidence > 0.9999" in text
    assert "runner-up: " in text
    assert f"after {found['sequential']['asked']} of 16 probes" in text


def test_classes_that_merge_are_one_of(folder: Path, capsys) -> None:
    code, found, _ = said(capsys, folder / "references" / "default", "--against", folder / "references")
    assert (code, found["platform"]) == (0, "one of {default, twin}")


def test_rounding_is_noticed_and_compensated(folder: Path, capsys) -> None:
    _, found, text = said(capsys, folder / "rounded", "--against", folder / "references")
    assert found["rounding"] == {"kind": "decimals", "places": 4}
    assert "outputs rounded to 4 decimals; references were rounded alike" in text
    assert {"onednn-off", "default"} <= set(found["labels"])
    assert "bf16" not in found["labels"]


def test_a_platform_without_reference_is_unknown_and_exits_1(folder: Path, tmp_path: Path, capsys) -> None:
    for name in ("default", "bf16"):
        Trace.load(folder / "references" / name).save(tmp_path / name)
    code, found, text = said(capsys, folder / "target", "--against", tmp_path)
    assert (code, found["platform"]) == (1, "unknown")
    assert "platform: unknown" in text


def test_what_cannot_be_compared_exits_2(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["identify", str(folder / "target"), "--against", str(tmp_path)]) == 2
    assert "holds no reference traces" in capsys.readouterr().err
    Trace(torch.zeros(3, 10), "other", "other", {}).save(tmp_path / "t")
    for against in ("library", "references"):
        assert main(["identify", str(tmp_path / "t"), "--against", str(folder / against)]) == 2
    assert main(["identify", str(folder / "target"), "--against", str(folder / "references"), "--error", "2"]) == 2


def test_answers_of_a_server_show_head_and_platform(tmp_path: Path, capsys) -> None:
    for k in range(3):
        collect(tmp_path / "known" / f"stack-{k}", stack(k))
    collect(tmp_path / "seen", stack(1))
    code, found, text = said(capsys, tmp_path / "seen", "--against", tmp_path / "known", "--error", 0.05)
    assert (code, found["platform"], found["head"]["dtype"]) == (0, "stack-1", "fp32")
    assert "head: fp32" in text
    assert found["sequential"]["platform"] == "stack-1"
    assert "prompt by prompt: stack-1 after" in text
    collect(tmp_path / "half", lambda x: x.bfloat16().float())
    (tmp_path / "none").mkdir()
    code, found, text = said(capsys, tmp_path / "half", "--against", tmp_path / "none")
    assert (code, found["head"]["dtype"]) == (0, "bf16")
    assert "number format is all there is to tell" in text


def test_long_classes_are_counted_in_the_table_and_named_below(folder: Path, capsys, tmp_path: Path) -> None:
    seen = Trace.load(folder / "target")
    for number in range(6):
        seen.save(tmp_path / f"a-platform-with-a-long-name-{number}")
    Trace.load(folder / "references" / "default").save(tmp_path / "other")
    code, found, text = said(capsys, folder / "target", "--against", tmp_path)
    table, rest = text.split("unknown  ", 1)
    assert code == 0
    assert "name-2, +3 more}" in table
    assert "< 1e-6" in table
    assert max(map(len, table.splitlines())) < 160
    assert "name-5" in rest
    assert len(found["labels"]) == 6


def test_answers_want_collections_to_be_compared_with(folder: Path, tmp_path: Path, capsys) -> None:
    """Nothing to compare with is no success."""
    collect(tmp_path / "seen", stack(1))
    for against, words in (("nowhere", "no folder"), ("shipped", "library of traces"), (folder / "library", "library")):
        assert main(["identify", str(tmp_path / "seen"), "--against", str(against)]) == 2
        assert words in capsys.readouterr().err
    for option in (("--error", "0"), ("--error", "nan"), ("--level", "2")):
        assert main(["identify", str(folder / "target"), "--against", str(folder / "library"), *option]) == 2
        assert f"{option[0]} is a probability between 0 and 1" in capsys.readouterr().err


def test_one_struck_word_gives_one_verdict(folder: Path, tmp_path: Path, capsys) -> None:
    seen = Trace.load(folder / "target")
    seen.outputs.view(torch.int32)[0, 0] += 1
    seen.save(tmp_path / "struck")
    _, found, text = said(capsys, tmp_path / "struck", "--against", folder / "references", "--error", 0.01)
    assert "onednn-off" in found["labels"]  # a unit off by itself may also be a platform that nobody has seen
    assert found["sequential"]["platform"] in ("onednn-off", "undecided")
    assert "the other one is 1 unit apart" in text
    seen.outputs[1, 1] = torch.nan
    seen.save(tmp_path / "struck")
    _, _, text = said(capsys, tmp_path / "struck", "--against", folder / "references")
    assert "not finite: 1 of 160 words is NaN or infinite" in text


def test_a_trace_is_no_collection_to_compare(folder: Path, capsys) -> None:
    assert main(["compare", str(folder / "target"), str(folder / "target")]) == 2
    said_ = capsys.readouterr().err
    assert "is a trace" in said_
    assert "holdfast identify" in said_


def test_what_was_signed_must_be_what_is_there(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """A tampered trace or collection is refused before it is explained, and so is one that somebody else signed."""
    monkeypatch.chdir(tmp_path)
    for name in ("author", "other"):
        assert main(["keygen", name]) == 0
    Trace.load(folder / "target").save("t")
    collect(Path("known/one"), stack(1))
    collect(Path("seen"), stack(1))
    for name in ("t", "seen", "known/one"):
        write_passport(name, require_key(load_signer("file:author.pem")))
    against = ["--against", str(folder / "references")]
    capsys.readouterr()
    assert main(["identify", "t", *against, "--trust", "author.pub"]) == 0
    assert "signed: t is as" in capsys.readouterr().err
    assert main(["identify", "t", *against, "--trust", "other.pub"]) == 1
    assert "platform:" not in capsys.readouterr().err
    assert main(["identify", str(folder / "target"), *against, "--trust", "author.pub"]) != 0
    assert main(["identify", "seen", "--against", "known"]) == 0
    for tampered in ("known/one", "seen"):
        with Path(tampered, "answers.jsonl").open("a") as file:
            file.write("{}")
        capsys.readouterr()
        assert main(["identify", "seen", "--against", "known"]) == 1
        assert "answers.jsonl" in capsys.readouterr().err
