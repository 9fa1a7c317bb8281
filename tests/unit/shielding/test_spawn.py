"""Reaching a worker, and what a worker of our own is given."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from holdfast.errors import WorkerUnreachable
from holdfast.shielding import shield
from holdfast.shielding.transport.spawn import SpawnedWorker, environment, socket_kind
from tests.unit.shielding.nets import integer_net


@pytest.mark.parametrize("scheme", ["unix", "shared"])
def test_a_worker_without_room_is_waited_for_no_longer_than_was_said(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX, socket_kind(shared=scheme == "shared")) as listener:
        listener.bind(str(path))
        listener.listen(0)  # and never accept
        started = time.monotonic()
        for _ in range(3):  # the first may still fit into the queue
            with pytest.raises(WorkerUnreachable, match=r"did not answer|takes no further session|is gone"):
                shield(integer_net(), f"{scheme}:{path}", timeout=0.3)
        assert time.monotonic() - started < 20


def test_a_worker_inherits_neither_secrets_nor_a_folder_nor_ways_to_new_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = SpawnedWorker()
    try:
        worker.connect(60).close()
        about = Path(f"/proc/{worker.process.pid}")
        seen = (about / "environ").read_bytes().split(b"\0")
        assert not any(b"hunter2" in item for item in seen)
        assert b"OMP_NUM_THREADS=1" in seen
        assert os.readlink(about / "cwd") == "/"
        assert "NoNewPrivs:\t1" in (about / "status").read_text()
    finally:
        worker.close()


def test_a_fork_that_lets_its_copy_go_leaves_the_worker_alone() -> None:
    worker = SpawnedWorker()
    try:
        worker.connect(60).close()
        if not (child := os.fork()):
            worker.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert worker.path.exists()
        assert Path(f"/proc/{worker.process.pid}").exists()
    finally:
        worker.close()
    assert not worker.path.exists()


def test_a_worker_closed_while_somebody_waits_for_it_is_said_to_be() -> None:
    worker = SpawnedWorker(("--no-such-option",))
    worker.process.wait(60)
    worker.close()
    with pytest.raises(WorkerUnreachable, match="exited with code 2") as caught:
        worker.connect(5)
    assert caught.value.hint == "it was closed while it started"


def test_where_code_lies_is_kept_in_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"src{os.pathsep}/elsewhere")
    assert environment()["PYTHONPATH"] == f"{tmp_path / 'src'}{os.pathsep}/elsewhere"
