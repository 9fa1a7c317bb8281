"""The worker as a service: started by command, restarted after a kill, patient with bad sessions."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from holdfast.cli import serve as serve_command
from holdfast.errors import IntegrityError, InvalidConfig, UnknownName, WorkerUnreachable
from holdfast.numerics.bits import bit_equal, hamming_distance
from holdfast.services import process as process_module
from holdfast.services.lie import Lie
from holdfast.services.worker import Worker, serve
from holdfast.shielding import shield
from holdfast.shielding.product import Geometry
from holdfast.shielding.transport import Connection, Frame, Kind
from tests.unit.shielding.nets import images, integer_net

# a shell that runs the tests in the background has children ignore SIGINT, which a worker rightly leaves as it is
HEAR = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
SERVE = "from holdfast.cli import entry; entry()"


def start(
    path: Path, *options: str, first: str = HEAR, kind: socket.SocketKind = socket.SOCK_STREAM
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", first + SERVE, "serve", "worker", "--socket", str(path), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not listens(path, kind):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def listens(path: Path, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_UNIX, kind) as probe:
        return path.exists() and probe.connect_ex(str(path)) == 0


def stop(process: subprocess.Popen[bytes], how: int) -> None:
    os.kill(process.pid, how)
    process.communicate(timeout=20)


def test_the_command_serves_sessions_one_after_another_and_survives_a_kill(tmp_path: Path) -> None:
    path, model = tmp_path / "w.sock", integer_net()
    process = start(path)
    for seed in range(2):
        with shield(model, f"unix:{path}") as session:
            assert bit_equal(session(images(2, seed)), model(images(2, seed)))
    with pytest.raises(WorkerUnreachable, match="cannot listen on"):
        serve(path)  # a living worker keeps its socket
    stop(process, signal.SIGKILL)
    assert path.exists()
    process = start(path)  # and a dead one's socket is no obstacle
    with shield(model, f"unix:{path}") as session:
        assert bit_equal(session(images(1)), model(images(1)))
    stop(process, signal.SIGINT)
    assert process.returncode == 130
    assert not path.exists()


def test_a_terminated_worker_takes_its_socket_along_also_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    process = start(path, first=DEAF)
    os.kill(process.pid, signal.SIGINT)  # meant for the shell in front, not for this one
    with shield(integer_net(), f"unix:{path}") as session:
        session(images(1))
        stop(process, signal.SIGTERM)  # in the middle of a session
    assert process.returncode == 128 + signal.SIGTERM
    assert not path.exists()


def test_the_command_lies_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    process = start(path, "--fault", "bit-flip", "--seed", "5")
    try:
        with shield(integer_net(), f"unix:{path}") as session, pytest.raises(IntegrityError):
            session(images(1))
    finally:
        stop(process, signal.SIGKILL)


def test_a_file_in_the_way_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(WorkerUnreachable, match="cannot listen"):
        serve(path)
    assert path.read_text() == "data"


def test_a_lie_is_one_flip_reproducible_and_different_each_time() -> None:
    def told() -> list[torch.Tensor]:
        lie = Lie("bit-flip", 9)
        return [lie("fc", torch.zeros(2, 5, dtype=torch.int32)) for _ in range(4)]

    first, again = told(), told()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(hamming_distance(lie, torch.zeros_like(lie)) == 1 for lie in first)
    assert len({tuple(lie.flatten().tolist()) for lie in first}) > 1
    with pytest.raises(UnknownName):
        Lie("bit-flop", 0)


def test_senseless_questions_are_refused_not_computed() -> None:
    worker = Worker()
    geometry = Geometry(kind="conv2d", in_channels=2, out_channels=3, kernel=(3, 3))
    weights = torch.ones(geometry.weight_shape, dtype=torch.int8)
    with pytest.raises(InvalidConfig, match="no weights were sent"):
        worker.answer(Frame(Kind.RUN, {"layer": "a"}, torch.zeros(4, 1, 2, 4, 4, dtype=torch.int8)))
    with pytest.raises(InvalidConfig, match="shape"):
        worker.answer(Frame(Kind.LOAD, {"layer": "a", "geometry": geometry.to_json()}, weights[:2]))
    worker.answer(Frame(Kind.LOAD, {"layer": "a", "geometry": geometry.to_json()}, weights))
    for shape in ((4, 1, 2, 2, 2), (4, 1, 3, 4, 4), (4,), (4, 1, 2, 4), (0, 1, 2, 4, 4), (5, 1, 2, 4, 4)):
        with pytest.raises(InvalidConfig):
            worker.answer(Frame(Kind.RUN, {"layer": "a"}, torch.zeros(shape, dtype=torch.int8)))
    for frame in (
        Frame(Kind.RUN, {"layer": "a"}),
        Frame(Kind.RESULT, {"layer": "a"}, weights),
        Frame(Kind.LOAD),
        Frame(Kind.RUN, {"layer": "a"}, torch.zeros(4, 1, 2, 4, 4, dtype=torch.int32)),
        Frame(Kind.RUN, {"layer": "a", "nonce": "ff"}, torch.zeros(4, 1, 2, 4, 4, dtype=torch.int8)),
    ):
        with pytest.raises(IntegrityError):
            worker.answer(frame)


def test_a_bad_session_gets_a_sentence_and_the_connection_ends() -> None:
    here, there = socket.socketpair()
    client = Connection(here, timeout=5, peer="the worker")
    client.send(Frame(Kind.RUN, {"layer": "x"}, torch.zeros(1, 1, dtype=torch.int8)))
    Worker().serve(Connection(there, timeout=5, peer="the session"))
    answer = client.receive()
    assert answer.kind is Kind.ERROR
    assert "no weights were sent for layer 'x'" in answer.header["message"]
    client.close()
    there.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "where to listen"),
        (("--grpc", "localhost:0"), "needs --tls-ca"),
        (("--grpc", "localhost:0", "--once", "--tls-ca", "a", "--tls-cert", "b", "--tls-key", "c"), "goes without"),
        (("--socket", "w.sock", "--device", "abacus"), "no device 'abacus'"),
        (("--socket", "w.sock", "--user", "no-such-user"), "no user 'no-such-user'"),
    ],
)
def test_a_worker_that_cannot_serve_as_asked_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process_module, "end_when_terminated", lambda: None)
    result = CliRunner().invoke(serve_command.app, ["worker", *options])
    told = result.output + str(result.exception)
    assert result.exit_code != 0
    assert message in " ".join(told.split())
    assert not (tmp_path / "w.sock").exists()


def test_a_stranger_on_the_shared_socket_does_not_stop_the_worker(tmp_path: Path) -> None:
    path, model = tmp_path / "w.sock", integer_net()
    process = start(path, "--shared", kind=socket.SOCK_SEQPACKET)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(path))
            stranger.send(b"hello?")
        with shield(model, f"shared:{path}") as session:
            assert bit_equal(session(images(2)), model(images(2)))
    finally:
        stop(process, signal.SIGTERM)
    assert not path.exists()


ORPHANED = """
import os, sys
from holdfast.shielding.transport import SpawnedWorker
worker = SpawnedWorker()
print(worker.process.pid, worker.path, flush=True)
{wait}
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "wait",
    [
        pytest.param("", id="before the worker even looked"),
        pytest.param("while not worker.path.exists(): os.sched_yield()", id="while it listens and nobody connected"),
        pytest.param("worker.connect(60)", id="while it waits for the first question"),
    ],
)
def test_a_worker_whose_parent_is_killed_ends(wait: str) -> None:
    parent = subprocess.run([sys.executable, "-c", ORPHANED.format(wait=wait)], stdout=subprocess.PIPE, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid, path = parent.stdout.decode().split()
    deadline = time.monotonic() + 60
    while runs(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    shutil.rmtree(Path(path).parent)  # killed parents clean nothing up


def test_an_orphan_that_is_stuck_in_native_code_ends_as_well() -> None:
    """A product that takes for ever lets no signal handler of Python run; the watching thread needs none."""
    stuck = (
        "import signal, sys, time; from holdfast.services import process, worker; process.PATIENCE = 0.1;"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); worker.end_with(int(sys.argv[1])); time.sleep(60)"
    )
    process = subprocess.run([sys.executable, "-c", stuck, "1"], timeout=50, check=False)  # 1 is not its parent
    assert process.returncode == process_module.ORPHANED


def runs(process: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
