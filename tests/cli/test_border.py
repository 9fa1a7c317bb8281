"""``holdfast border`` writes API inputs, goes on where it stopped, and says what it cannot do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import main
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.border import BorderPrompts, BorderSet
from holdfast.models import save
from tests.nets import trained_digits


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("border") / "model"
    save(trained_digits(), folder)
    return folder


@pytest.fixture(scope="module")
def found(stored: Path) -> Path:
    out = stored.parent / "found"
    assert main(call(stored, out, "--platform", "bf16", "--batch", "1")) == 0
    return out


def call(model: Path, out: Path, *more: str) -> list[str]:
    return ["border", str(model), "--data", "digits", "--platform", "default", "-o", str(out), *more]


@pytest.mark.parametrize("method", ["lattice", "pgd"])
def test_images_of_two_formats(stored: Path, tmp_path: Path, capsys, method: str) -> None:
    more = ("--platform", "bf16", "--platform", "fp16", "--method", method, "--batch", "4", "--json")
    assert main(call(stored, tmp_path / "out", *more)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["inputs"][0]["labels"]["default"] != said["inputs"][0]["labels"]["bf16"]
    assert len(BorderSet.load(tmp_path / "out").inputs) == 1
    assert main(call(stored, tmp_path / "out", *more, "-n", "2")) == 0
    assert len(json.loads(capsys.readouterr().out)["inputs"]) == 2


def test_platforms_that_are_one_exit_1_and_write_nothing(stored: Path, tmp_path: Path, capsys) -> None:
    assert main(call(stored, tmp_path / "out", "--platform", "batch-1", "--batch", "1")) == 1
    assert "no border input can part default and batch-1: they give the same bits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ((), "two platforms"),
        (("--platform", "bf61"), "unknown platform 'bf61'"),
        (("--platform", "bf16", "--method", "magic"), "no method 'magic'"),
        (("--rank", "0", "--world-size", "2"), "no rendezvous"),
        (("--rank", "0", "--timeout", "nan"), "a timeout is a number of seconds above 0, not nan"),
        (("--platform", "bf16", "--rank", "0", "--rendezvous", "tcp://127.0.0.1:1"), "each rank brings one"),
    ],
)
def test_calls_that_cannot_work_exit_2(stored: Path, tmp_path: Path, capsys, more: tuple[str, ...], why: str) -> None:
    assert main(call(stored, tmp_path / "out", *more)) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--platform", "bf16", "--transfer", "other"), "--transfer"),
        (("--platform", "bf16", "--rendezvous", "tcp://127.0.0.1:1"), "--rendezvous"),
        (("--platform", "bf16", "--timeout", "9"), "--timeout"),
        (("--platform", "bf16", "--device", "cuda"), "--device"),
        (("--platform", "bf16", "--tokenizer", "tok512.bin"), "--tokenizer"),
        (("--check", "there"), "--data, --out"),
    ],
)
def test_options_that_nobody_would_look_at_are_refused_by_name(
    stored: Path, tmp_path: Path, capsys, more: tuple[str, ...], what: str
) -> None:
    assert main(call(stored, tmp_path / "out", *more)) == 2
    assert f"without {what}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:-1", "cuda:9999"])
def test_a_rank_on_a_device_that_is_not_here_is_one_clear_error(
    stored: Path, tmp_path: Path, capsys, device: str
) -> None:
    rank = ("--rank", "0", "--world-size", "2", "--rendezvous", f"file://{tmp_path}/meeting", "--timeout", "3")
    assert main([*call(stored, tmp_path / "out", *rank, "--device", device)]) == (3 if device == "cuda:9999" else 2)
    seen = capsys.readouterr().err
    assert "Traceback" not in seen
    assert "GPU" in seen if device == "cuda:9999" else f"no device '{device}'" in seen
    assert not (tmp_path / "out").exists()


def test_other_models_are_asked_only_about_inputs_of_the_model_that_is_named(
    stored: Path, found: Path, tmp_path: Path, capsys
) -> None:
    save(trained_digits(steps=5), tmp_path / "other")
    asked = ["--check", str(found), "--transfer", str(stored)]
    assert main(["border", str(tmp_path / "other"), *asked]) == 1
    assert "are about model" in capsys.readouterr().err
    assert main(["border", str(stored), *asked, "--platform", "bf16"]) == 2
    assert "without --platform" in capsys.readouterr().err
    assert not (found / "transferability.yaml").exists()


def test_prompts_of_a_language_model(shared_data: Path, tmp_path: Path, capsys) -> None:
    model = shared_data / "tiny-llama-260k"
    given = ["border", str(model), "--data", f"wikitext2:{shared_data / 'wikitext-2'}", "-o", str(tmp_path / "out")]
    given += ["--tokenizer", str(model / "tok512.bin"), "--platform", "default", "--platform", "bf16", "--batch", "1"]
    assert main([*given, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["prompts"][0]
    assert said["continuations"]["default"][0] != said["continuations"]["bf16"][0]
    first = BorderPrompts.load(tmp_path / "out")
    assert len(first.prompts) == 1
    assert main([*given, "-n", "2", "--json"]) == 0  # goes on
    assert BorderPrompts.load(tmp_path / "out").prompts[0] == first.prompts[0]
    assert len(json.loads(capsys.readouterr().out)["prompts"]) == 2
    assert main([*given, "--rank", "1", "--rendezvous", "tcp://127.0.0.1:1"]) == 2


def test_saved_inputs_are_asked_about_again(stored: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(call(stored, out, "--platform", "bf16", "--batch", "4", "-n", "2")) == 0
    capsys.readouterr()
    assert main(["border", str(stored), "--check", str(out), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["changed"], len(found["inputs"])) == (0, 4)
    assert all(item["then"] == item["now"] and item["found"]["batch"] == 4 for item in found["inputs"])
    assert "all 4 labels hold, each asked 18 times" in said.err
    assert main(["border", str(stored), "--check", str(out), "--platform", "onednn-off"]) == 2
    assert "says nothing about onednn-off" in capsys.readouterr().err


def changed(folder: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool) -> None:
    """Apply ``change`` to what is said of the inputs, and state the digest anew if ``sealed``."""
    value = json.loads((folder / "border.json").read_text())
    change(value["border"])
    if sealed:
        value["digest"] = digest_bytes(canonical.dumps(value["border"]))
    (folder / "border.json").write_bytes(canonical.dumps(value))


def test_a_label_that_changed_is_named(stored: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(call(stored, out, "--platform", "bf16", "--batch", "1")) == 0
    was = BorderSet.load(out).inputs[0].standings[1].label
    assert was is not None
    other = {"label": (was + 1) % 10}
    changed(out, lambda body: body["inputs"][0]["platforms"][1].update(other), sealed=False)
    capsys.readouterr()
    assert main(["border", str(stored), "--check", str(out)]) == 1
    said = capsys.readouterr().err
    assert "border.json was changed after it was written" in said  # which is not the platform's fault
    assert "on bf16" not in said
    changed(out, lambda body: None, sealed=True)  # by somebody who knows the format: then it is what is on record
    assert main(["border", str(stored), "--check", str(out)]) == 1
    assert f"on bf16 was {(was + 1) % 10}, is {was}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": "x"}, "batch of a platform is 'x'"),
        ({"batch": 0}, "batch of a platform is 0"),
        ({"platform": "bf16\n1 label holds"}, "platform of a platform is"),
        ({"label": [3]}, "label of a platform is [3]"),
        ({"margin": "wide"}, "margin of a platform is 'wide'"),
        ({"asked": {}}, "asked in other ways"),
        ({"more": 1}, "says not what a platform answered"),
    ],
)
def test_a_field_of_another_kind_is_one_clear_error(
    stored: Path, found: Path, tmp_path: Path, capsys, change: dict[str, Any], said: str
) -> None:
    shutil.copytree(found, tmp_path / "out")
    changed(tmp_path / "out", lambda body: body["inputs"][0]["platforms"][1].update(change), sealed=True)
    assert main(["border", str(stored), "--check", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told


def test_inputs_of_another_model_are_refused(stored: Path, tmp_path: Path, capsys) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    assert main(call(stored, out, "--platform", "bf16", "--batch", "1")) == 0
    save(trained_digits(steps=5), other)
    assert main(["border", str(other), "--check", str(out)]) == 1
    assert "are about model" in capsys.readouterr().err


def test_labels_alone_name_the_platforms_and_other_models_are_asked(stored: Path, tmp_path: Path, capsys) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    more = ("--platform", "bf16", "--platform", "onednn-off", "--method", "pgd", "--batch", "4")
    assert main(call(stored, out, *more)) == 0
    capsys.readouterr()
    assert main(["border", str(stored), "--check", str(out), "--json"]) == 0
    said = capsys.readouterr()
    named = json.loads(said.out)["naming"]
    assert len(named["chosen"]["inputs"]) == 1
    assert named["right"]["bf16"]
    assert named["right"]["default"]
    assert "1 label (border-000.png; the fewest there are) tell apart" in said.err
    save(trained_digits(steps=60), other)
    told = ["border", str(stored), "--check", str(out), "--transfer", str(stored), "--transfer", str(other), "--json"]
    assert main(told) == 0
    ratio = json.loads(capsys.readouterr().out)
    written = json.loads((out / "transferability.yaml").read_text())
    assert written == ratio
    assert written["by_model_accuracy"][str(stored)] == 1.0  # the model that the inputs were made for
    assert set(written["by_model_accuracy"]) == {str(stored), str(other)}
    assert set(written) >= {"by_class_acc", "matthews_corr", "classification_report", "chance"}


@pytest.mark.slow
def test_all_pairs_are_parted_and_platforms_named(stored: Path, tmp_path: Path, capsys) -> None:
    more = ("--platform", "bf16", "--platform", "gradients", "--all-pairs", "--batch", "4")
    assert main(call(stored, tmp_path / "out", *more, "--json")) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["classes"] == [["bf16"], ["default", "gradients"]] or found["classes"] == [
        ["default", "gradients"],
        ["bf16"],
    ]
    assert "not parted: default and gradients" in said.err
    assert "name 3 of 3 platforms right" in said.err
    assert main(call(stored, tmp_path / "two", *more, "-n", "2")) == 2
    assert "drop --rank and -n" in capsys.readouterr().err
