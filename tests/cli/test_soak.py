"""``holdfast soak`` and ``holdfast logs`` as a person meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.models import build_architecture, save

RUN = ["soak", "m", "--data", "digits", "--samples", "4", "--devices", "1", "-o", "out"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(build_architecture("digits-cnn:channels=4"), tmp_path / "m")
    return tmp_path


def test_a_run_ends_with_rates_and_its_logs_import(model: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*RUN, "--iterations", "20", "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert record["kind"] == "soak"
    assert [item["iterations"] for item in record["facts"]["this_run"].values()] == [20]
    assert "nothing wrong" in said.err
    assert "holdfast logs import out/logs" in said.err
    assert main(["logs", "import", "out/logs", "--json"]) == 0
    [arm] = json.loads(capsys.readouterr().out)["facts"]["arms"]
    assert (arm["sdc"]["events"], arm["due"]["events"]) == (0, 0)
    assert arm["sdc"]["high"] > 0


def test_wrong_calls_are_refused(model: Path, capsys: pytest.CaptureFixture[str]):
    assert main(RUN) == 2
    assert "hours or for iterations" in capsys.readouterr().err
    assert main(["soak", "m", "--iterations", "1", "-o", "out"]) == 2
    assert main(["soak", "--iterations", "1", "-o", "out"]) == 2
    assert "nothing to compute" in capsys.readouterr().err
    assert main([*RUN, "--iterations", "1", "--devices", "cpu:4096"]) == 3


@pytest.mark.slow
def test_an_interrupt_ends_it_cleanly_and_says_how_to_go_on(model: Path):
    # a shell that runs the tests in the background has children ignore SIGINT
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    call = [sys.executable, "-c", hear + "from holdfast.cli import entry; entry()", *RUN, "--hours", "1"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            _wait_for_iterations(model / "out" / "logs")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
            said = process.communicate(timeout=60)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, said
    assert "the same call goes on in out" in said
    [log] = (model / "out" / "logs").glob("*.log")
    assert log.read_text().endswith("#END\n")
    assert json.loads((model / "out" / "soak.json").read_text())["facts"]["interrupted"] is True
    assert main([*RUN, "--iterations", "4"]) == 0  # goes on


def _wait_for_iterations(logs: Path) -> None:
    until = time.monotonic() + 90
    while not any("#IT" in path.read_text() for path in logs.glob("*.log")):
        if time.monotonic() > until:
            pytest.fail("no iteration within 90 s")
        time.sleep(0.05)
