"""``holdfast shield plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.shielding import planner
from tests.unit.shielding.planner.test_plan import FAST_WORKER


@pytest.fixture
def machine(tmp_path: Path) -> str:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps(FAST_WORKER.to_json()))
    return str(path)


def test_a_plan_is_printed_and_is_one_json_object(machine: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["shield", "plan", "digits-cnn", "--machine", machine, "--rule", "slalom", "--top-code", "64", "--json"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert plan["top_code"] == 64
    assert {node["placement"] for node in plan["nodes"] if node["macs"]} == {"blinded"}
    assert "untrusted, blinded" in err
    assert "codes within 64" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["digits-cnn", "--budget", "1000"], 2, "may use 1,000"),
        (["digits-cnn", "--rule", "slolam"], 2, "did you mean slalom"),
        (["digits-cnn", "--example", "3xmany"], 2, "write the sides"),
        (["digits-cnn", "--example", "99999x99999x9999999"], 2, "at most 67,108,864 numbers"),
        (["digits-cnn", "--public", "digits-cnn"], 2, "--rule private-adapters"),
        (["no-such-net"], 2, "unknown architecture"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_error(
    arguments: list[str], code: int, message: str, machine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shield", "plan", *arguments, "--machine", machine]) == code
    assert message in capsys.readouterr().err


def test_weights_of_a_public_model_are_offloaded(machine: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["shield", "plan", "digits-cnn", "--rule", "private-adapters", "--public", "digits-cnn"]
    assert main([*arguments, "--machine", machine, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {node["placement"] for node in plan["nodes"] if node["macs"]} == {"blinded"}


@pytest.mark.parametrize(
    ("arguments", "worker", "options"),
    [
        ([], "spawn", ()),
        (["--worker-device", "cuda"], "spawn", ("--device", "cuda")),
        (["--worker", "shared:/run/w.sock"], "shared:/run/w.sock", ()),
    ],
)
def test_the_target_is_measured_with_the_worker_that_will_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], worker: str, options: tuple[str, ...]
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(planner, "measure", lambda **given: asked.append(given) or FAST_WORKER)
    path = tmp_path / "machine.json"
    assert main(["shield", "plan", "digits-cnn", "--machine", str(path), *arguments]) == 0
    assert asked == [{"worker": worker, "worker_options": options}]
    assert planner.Machine.from_json(json.loads(path.read_text())) == FAST_WORKER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--worker-device", "cuda"], "was measured already"),
        (["--worker", "unix:w.sock"], "was measured already"),
        (["--worker", "unix:w.sock", "--worker-device", "cuda"], "has its device"),
    ],
)
def test_a_target_that_was_measured_is_not_measured_with_another_worker(
    machine: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["shield", "plan", "digits-cnn", "--machine", machine, *arguments]) == 2
    assert message in capsys.readouterr().err
