"""``holdfast attack``: a table, one record, a file that campaigns replay, and one clear sentence for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast import _device
from holdfast.cli import main
from holdfast.data import dataset
from holdfast.evidence.record import Record
from holdfast.execution import accuracy, inject
from holdfast.execution.condition import faults
from holdfast.faults.adversarial import FixedFlips
from holdfast.faults.adversarial.attack import split_images
from holdfast.faults.adversarial.fixed_flips import read_flips
from holdfast.models import build_architecture, load, save
from holdfast.quantization import quantize
from tests.away import AWAY, away


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_architecture("digits-cnn:channels=8", seed=0).train()
    images, labels = dataset("digits", split="train").all()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        pick = torch.randperm(len(labels), generator=generator)[:256]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[pick]), labels[pick]).backward()
        optimizer.step()
    place = tmp_path_factory.mktemp("attacked")
    save(quantize(model.eval(), "int8"), place / "m")
    return place


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


ATTACK = ["attack", "m", "--data", "digits", "-o", "attack.json"]


def test_a_search_on_a_device(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in takes the place of a GPU; what it finds are the CPU's flips, and the record names it."""
    call = [*ATTACK[:4], "--budget", "2", "--random-draws", "3"]
    assert main([*call, "-o", "cpu.json"]) == 0
    monkeypatch.setattr(_device, "device_named", lambda name, start=False: AWAY)
    with away():
        assert main([*call, "-o", "there.json", "--device", "cuda", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["procedure"]["device"] == AWAY.type
    there, here_too = (FixedFlips(path=name).flip_list for name in ("there.json", "cpu.json"))
    assert there == here_too


def test_the_cpu_goes_without_saying(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([*ATTACK[:4], "--budget", "1", "-o", "zero.json", "--random-draws", "0", "--device", "cpu:0", "--json"])
        == 0
    )
    assert "device" not in json.loads(capsys.readouterr().out)["procedure"]


def test_a_device_that_is_not_here_is_one_clear_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ATTACK[:4], "-o", "never.json", "--device", "cuda:77"]) == 3
    assert "there is no device 'cuda:77' here" in capsys.readouterr().err
    assert not Path("never.json").exists()


def test_an_attack_writes_flips_that_give_the_errors_it_reports(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ATTACK, "--budget", "5", "--random-draws", "20", "--rows", "2", "--row-bytes", "256", "--json"]) == 0
    seen = capsys.readouterr()
    record = Record.from_json(json.loads(seen.out))
    assert record.kind == "bit-attack"
    measured = record.measured
    assert measured["clean-error"].high < measured["attacked-error"].low
    assert measured["random-error"].value < measured["attacked-error"].value
    assert record.facts["bits"] <= 5
    assert record.facts["rows"] <= 2
    fault = faults.build("fixed-flips:path=attack.json")
    assert fault.digest == record.facts["flips"]
    assert read_flips("attack.json")["record"] == record.to_json()
    with inject(load("m"), fault, at="weights") as faulty:
        _, unseen = split_images(dataset("digits"), 128, 0)
        assert 1 - accuracy(faulty, unseen).value == pytest.approx(measured["attacked-error"].value)
    for line in ("error, clean", "error, attacked", "error, random, worst of 20", "5 bits in"):
        assert line in seen.err
    site, places = fault.flip_list.sites[0]
    element, bit = places[0]
    assert "flipped bits (element:bit)" in seen.err
    assert any(site.address in line and f" {element}:{bit}" in line for line in seen.err.splitlines())


def test_a_campaign_replays_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ATTACK, "--budget", "5", "--random-draws", "0"]) == 0
    replay = ["campaign", "m", "--data", "digits", "--at", "weights", "--trials", "40", "--json", "-o", "run"]
    capsys.readouterr()
    assert main([*replay, "--fault", "fixed-flips:path=attack.json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert measured["critical"]["value"] > 0.5
    assert main([*replay, "--fault", "fixed-flips:path=attack.json", "--at", "weights:norm*", "-o", "other"]) == 2
    assert "outside the selection" in capsys.readouterr().err


def test_a_trojan_keeps_its_trigger(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aim = [
        "--method",
        "bit-trojan",
        "--objective",
        "trojan:label=2",
        "--at",
        "weights:fc.weight",
        "--per-weight",
        "any",
    ]
    assert main([*ATTACK, *aim, "--budget", "12", "--random-draws", "5"]) == 0
    assert torch.tensor(read_flips("attack.json")["trigger"]).shape == (1, 3, 3)
    assert "success, attacked" in capsys.readouterr().err


def test_the_same_seed_writes_the_same_bytes(here: Path) -> None:
    call = [*ATTACK[:-1], "one.json", "--method", "projected-gradient:restarts=2,iterations=4", "--random-draws", "3"]
    assert main(call) == 0
    call[call.index("one.json")] = "two.json"
    assert main(call) == 0
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


BAD = {
    "method": (["--method", "progresive-bit-search"], "did you mean progressive-bit-search"),
    "option": (["--method", "progressive-bit-search:tops=3"], "did you mean top"),
    "objective": (["--objective", "targeted"], "label"),
    "class": (["--objective", "targeted:label=12"], "no class 12"),
    "site": (["--at", "weights:cnov*"], "no site matches"),
    "kind": (["--at", "activations"], "stored bits"),
    "images": (["--images", "500"], "none to evaluate"),
    "per weight": (["--per-weight", "two"], "one or any"),
    "budget": (["--budget", "0"], "budget"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_mistake_is_one_clear_sentence(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = BAD[case]
    call = [*ATTACK[:-1], "none.json", *arguments]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not Path("none.json").exists()
