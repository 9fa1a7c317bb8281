"""``holdfast serve gateway`` with real processes: workers of its own that are killed, and SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
from holdfast.cli import serve as serve_command
from holdfast.data import dataset
from holdfast.models import build_architecture
from holdfast.numerics.bits import bit_equal
from holdfast.shielding.gateway import Settings, sources
from holdfast.shielding.graph import export
from tests.unit.shielding.gateway.places import MODEL, SIGNATURE, until
from tests.unit.shielding.nets import images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no integer model yet"),
        (("--data", "digits", "--http", "0.0.0.0:80"), "needs mutual TLS"),
        (("--data", "digits", "--http", "80"), "not HOST:PORT"),
        (("--data", "digits", "--grpc", "localhost:0"), "gRPC needs mutual TLS"),
        (("--data", "digits", "--tls-ca", "ca.pem"), "all three files"),
        (("--data", "digits", "--timeout", "1"), "the shorter one"),
        (("--data", "digits", "--timeout", "-1"), "limits of a gateway are positive"),
        (("--data", "digits", "--placement", "trusted"), "Invalid value"),
    ],
)
def test_a_gateway_that_cannot_serve_as_asked_says_why(options: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(serve_command.app, ["gateway", "digits-cnn", *options])
    told = result.output + str(result.exception) + str(getattr(result.exception, "hint", ""))
    assert result.exit_code != 0
    assert message in " ".join(told.split())


@pytest.mark.slow
def test_a_spawned_worker_that_is_stopped_and_killed_in_mid_request_costs_a_retry(tmp_path: Path) -> None:
    from tests.unit.shielding.gateway.places import gateway

    made = gateway(*sources(MODEL, sessions=2, settings=Settings()), timeout=60.0, worker_timeout=30.0)  # type: ignore[arg-type]
    with made as gate:
        until(lambda: gate.pool.states()["ready"] == 2, 60)
        workers = [seat._opened.pid for seat in gate.pool._seats if seat._opened is not None]
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        job = gate.submit(SIGNATURE.read(json.dumps({"inputs": images(2).tolist()}).encode()))
        until(lambda: gate.pool.states()["busy"] == 1)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert bit_equal(job.wait(), MODEL(images(2)))
        assert gate.metrics.failures.count("lost") == 2
        assert gate.metrics.retries.count() >= 1
        assert gate.metrics.requests.count("answered") == 1


def workers(log: Path) -> list[int]:
    """The processes that were ready at some time."""
    return [json.loads(line)["pid"] for line in log.read_text().splitlines() if "worker-ready" in line]


@pytest.mark.slow
def test_the_command_answers_survives_kills_and_ends_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "from holdfast.cli import entry; entry()", "serve", "gateway", "digits-cnn"]
    command += ["--data", "digits", "--http", "127.0.0.1:0", "--timeout", "120", "--worker-timeout", "60"]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        until(lambda: "listens on" in log.read_text() and "worker-ready" in log.read_text(), 120)
        url = log.read_text().split("listens on ")[1].split()[0]
        train = dataset("digits", split="train").take(128)
        inputs, _ = train.batch(torch.arange(3))
        model = export(build_architecture("digits-cnn", seed=0).eval(), inputs[:1], train)
        killed: list[int] = []
        for _ in range(3):
            body = json.dumps({"inputs": inputs.tolist()}).encode()
            request = urllib.request.Request(url + "/v1/infer", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=120) as answer:
                outputs = torch.tensor(json.loads(answer.read())["outputs"])
            assert bit_equal(outputs, model(inputs))
            until(lambda: len(workers(log)) > len(killed), 120)
            victim = next(pid for pid in workers(log) if pid not in killed)
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        events = [json.loads(line)["event"] for line in log.read_text().splitlines() if line.startswith("{")]
        assert events[-1] == "stopped"
        assert events.count("worker-lost") >= 1
    finally:
        process.kill()
