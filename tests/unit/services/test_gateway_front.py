"""The front of a world without a network: bytes arrive as they were, in both directions, and ends are passed on."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
from holdfast.errors import InvalidConfig, WorkerUnreachable
from holdfast.services.gateway import forwarding


@contextmanager
def behind(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A server at a path that treats each connection in a thread of its own."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def accept() -> None:
        while True:
            try:
                stream = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(stream,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def backwards(stream: socket.socket) -> None:
    data = b"".join(iter(lambda: stream.recv(4096), b""))
    stream.sendall(data[::-1])
    stream.close()


def ask(address: str, data: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as stream:
        try:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: stream.recv(4096), b""))
        except OSError:  # reset, or shut down from the other side
            return b""


def test_bytes_go_both_ways_unchanged_and_many_at_a_time(tmp_path: Path) -> None:
    messages = [os.urandom(size) for size in (1, 70_000, 1_000_000)] * 3
    answers: dict[int, bytes] = {}
    with behind(tmp_path / "s", backwards), forwarding("127.0.0.1:0", tmp_path / "s") as address:

        def one(number: int) -> None:
            answers[number] = ask(address, messages[number])

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(messages))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert all(answers[number] == message[::-1] for number, message in enumerate(messages))


def test_nobody_behind_it_yet_is_an_end_and_later_an_answer(tmp_path: Path) -> None:
    with forwarding("127.0.0.1:0", tmp_path / "s") as address:
        assert ask(address, b"hello") == b""
        with behind(tmp_path / "s", backwards):
            assert ask(address, b"hello") == b"olleh"


def test_one_connection_too_many_is_hung_up_on(tmp_path: Path) -> None:
    with (
        behind(tmp_path / "s", backwards),
        forwarding("127.0.0.1:0", tmp_path / "s", connections=1) as address,
    ):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 20) as first:
            first.sendall(b"I was")
            second = socket.create_connection((host, int(port)), 20)
            assert second.recv(1) == b""
            first.sendall(b" here")
            first.shutdown(socket.SHUT_WR)
            assert first.recv(100) == b"ereh saw I"
        second.close()


def test_its_end_ends_what_is_open_and_frees_the_port(tmp_path: Path) -> None:
    with behind(tmp_path / "s", backwards):
        with forwarding("127.0.0.1:0", tmp_path / "s") as address:
            host, _, port = address.rpartition(":")
            stream = socket.create_connection((host, int(port)), 20)
            stream.sendall(b"half")
        try:
            assert stream.recv(1) == b""
        except ConnectionResetError:
            pass  # an end as well: what it had sent was not read
        finally:
            stream.close()
        with forwarding(address, tmp_path / "s") as again:
            assert again == address
            assert ask(again, b"ab") == b"ba"


def test_an_address_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WorkerUnreachable, match="cannot listen"), forwarding(address, tmp_path / "s"):
            pass
    with pytest.raises(InvalidConfig, match="not HOST:PORT"), forwarding("nowhere", tmp_path / "s"):
        pass
