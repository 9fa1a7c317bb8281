"""What the network does to a collection: silence, proxies, interruptions, replies without end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, MissingExtra, Unavailable
from holdfast.identification.answers import Collection
from holdfast.identification.collectors import (
    Budget,
    CollectOptions,
    Patience,
    ServerRequest,
    client,
    collect_answers,
    word_prompts,
)
from holdfast.testing.simulated_server import Mischief, SimulatedServer

pytest.importorskip("httpx2", reason="the extra servers is not installed")


def collect(url: str, out: Path, *, attempts: int = 2, timeout: float = 10.0, budget: Budget | None = None):
    patience = Patience(attempts=attempts, first=0.01, timeout=timeout)
    options = CollectOptions(patience=patience, budget=budget or Budget())
    return collect_answers(ServerRequest(url=url, tokens=2, top=3), word_prompts(3), out, options=options)


@contextmanager
def raw_server(reply: bytes, *, hold: bool = False) -> Iterator[str]:
    """Whoever connects gets these bytes, whatever he asks."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def talk(peer: socket.socket) -> None:
        with peer:
            peer.recv(65536)
            try:
                peer.sendall(reply)
            except OSError:
                return
            over.wait(10 if hold else 0)

    def serve() -> None:
        while not over.is_set():
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(peer,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        over.set()
        listener.close()


def test_a_server_that_says_nothing_is_left_after_the_time_out(tmp_path: Path):
    with raw_server(b"", hold=True) as url, pytest.raises(Unavailable, match="does not answer: ReadTimeout"):
        collect(url, tmp_path / "c", timeout=0.3)
    assert not (tmp_path / "c").exists()


def test_a_request_that_times_out_is_tried_again_and_counts_at_its_worst(tmp_path: Path):
    with (
        SimulatedServer(mischief=Mischief(delay=1.0)) as server,
        pytest.raises(Unavailable, match="does not answer: ReadTimeout"),
    ):
        collect(server.url, tmp_path / "c", timeout=0.2)
    lines = [line for line in Collection.load(tmp_path / "c").lines() if line["kind"] == "failed"]
    assert len(lines) == 2
    assert all(line["used"][1] == 2 and line["used"][0] > 64 for line in lines)


def test_what_is_no_http_is_one_clear_error(tmp_path: Path):
    with raw_server(b"SSH-2.0-OpenSSH_9.2\r\n") as url, pytest.raises(Unavailable, match="RemoteProtocolError"):
        collect(url, tmp_path / "c")


def test_a_reply_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "LARGEST", 1 << 16)
    endless = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b" " * (1 << 20)
    with raw_server(endless) as url, pytest.raises(Unavailable, match=r"a reply of more than|does not answer"):
        collect(url, tmp_path / "c")


def replied(head: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def test_a_body_that_does_not_unpack_is_no_answer(tmp_path: Path):
    reply = replied(b"200 OK\r\nContent-Encoding: gzip\r\nContent-Type: application/json", b"not packed at all")
    with raw_server(reply) as url, pytest.raises(Unavailable, match="does not answer: DecodingError"):
        collect(url, tmp_path / "c")


@pytest.mark.parametrize("location", [b"http://[", b"//[x/y", b"http://127.0.0.1:bad/v1"])
def test_a_redirect_to_what_is_no_address_is_a_clear_error(tmp_path: Path, location: bytes):
    reply = replied(b"307 Temporary Redirect\r\nLocation: " + location)
    with raw_server(reply) as url, pytest.raises(InvalidConfig, match=r"redirects to"):
        collect(url, tmp_path / "c")


def test_a_reply_that_is_too_large_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It would come again, and each attempt counts at the worst that it can have cost."""
    with SimulatedServer() as server:
        monkeypatch.setattr(client, "LARGEST", 1 << 10)
        with pytest.raises(Unavailable, match="a reply of more than"):
            collect_many(server.url, tmp_path / "c")
        assert len(server.asked) == 1


def collect_many(url: str, out: Path):
    options = CollectOptions(patience=Patience(attempts=4, first=0.01))
    return collect_answers(ServerRequest(url=url, tokens=16, top=20), word_prompts(1), out, options=options)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with SimulatedServer() as server:
        assert collect(server.url, tmp_path / "c").complete


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtra, match="httpx2") as caught:
        collect("http://127.0.0.1:9/v1", tmp_path / "c")
    assert "holdfast[servers]" in caught.value.hint


@pytest.mark.slow
def test_an_interruption_keeps_what_is_there_and_says_so(tmp_path: Path):
    with SimulatedServer(mischief=Mischief(delay=0.1)) as server:
        call = [sys.executable, "-c", "from holdfast.cli import entry; entry()", "run", server.url]
        call += ["--probes", "200", "--tokens", "2", "--top", "3", "--concurrency", "2", "-o", str(tmp_path / "c")]
        handler = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a child in the background inherits "ignore"
        try:
            child = subprocess.Popen(call, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, handler)
        until = time.monotonic() + 60
        while len(server.asked) < 6 and time.monotonic() < until:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 130
        assert "the same call resumes it" in said
        assert "Traceback" not in said
    assert 0 < sum(1 for _ in Collection.load(tmp_path / "c").answers()) < 200
