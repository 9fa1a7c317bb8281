"""Virtio ports of a vm world's guest: one for its launcher's questions, one for the standard streams of the module.

Runs inside the guest, so it imports the standard library only. The port ``run`` carries frames of channel u8, length
u32 (big-endian) and data: channel 0 is the module's input, 1 and 2 are its outputs, 3 its exit code (i32). A length
of 0 ends a channel. Whoever hangs up on the module ends it.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

LIMIT = 1 << 22  # bytes of one message
_CHUNK = 1 << 16
_INPUT, _EXIT = 0, 3
_PATIENCE = 30.0  # seconds
_FOLDER = "/sys/class/virtio-ports"


def port(name: str) -> int:
    """Open the virtio port called ``name``."""
    for entry in os.listdir(_FOLDER):
        with open(f"{_FOLDER}/{entry}/name") as file:
            if file.read().strip() == name:
                return os.open(f"/dev/{entry}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    raise OSError(f"the machine has no port {name!r}")


def taken(handle: int, count: int) -> bytes:
    """Return ``count`` bytes, or raise :class:`EOFError` when the other side hangs up."""
    data, waiting = bytearray(), select.poll()
    waiting.register(handle, select.POLLIN)
    while len(data) < count:
        _, found = waiting.poll()[0]
        piece = os.read(handle, min(count - len(data), _CHUNK)) if found & select.POLLIN else b""
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return bytes(data)


def put(handle: int, data: bytes) -> None:
    """Write all of ``data``, or raise :class:`BrokenPipeError` when the other side hangs up."""
    view, waiting = memoryview(data), select.poll()
    waiting.register(handle, select.POLLOUT)
    while view:
        _, found = waiting.poll()[0]
        if found & (select.POLLHUP | select.POLLERR):
            raise BrokenPipeError("the other side is gone")
        view = view[os.write(handle, view[:_CHUNK]) :]


def message(handle: int, size: int = 4) -> bytes:
    """Return the next byte string that is preceded by its length."""
    if (length := int.from_bytes(taken(handle, size), "big")) > LIMIT:
        raise EOFError("too long")
    return taken(handle, length)


def _await_peer(handle: int) -> None:
    """Return once the port is connected, which the machine tells the kernel after it happened."""
    waiting, deadline = select.poll(), time.monotonic() + _PATIENCE
    waiting.register(handle, select.POLLOUT)
    while not any(found & select.POLLOUT and not found & select.POLLHUP for _, found in waiting.poll()):
        if time.monotonic() > deadline:
            raise OSError("nobody is there to carry the streams to")
        time.sleep(0.01)


class Streams:
    """Carries the standard streams of one process at a time.

    Args:
        handle: of the port.
        kill: ends a process, and what it started.
    """

    def __init__(
        self, handle: int, kill: Callable[[subprocess.Popen[bytes]], None] = subprocess.Popen.kill
    ) -> None:  # fmt: skip
        self._handle, self._kill = handle, kill
        self._process: subprocess.Popen[bytes] | None = None
        self._writing = threading.Lock()
        self._threads: list[threading.Thread] = []

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        """Carry for ``process``; the other side is there already, though the kernel may not have heard of it yet."""
        _await_peer(self._handle)
        outputs = [
            threading.Thread(target=self._carry, args=item) for item in ((1, process.stdout), (2, process.stderr))
        ]
        last = threading.Thread(target=self._finish, args=(process, outputs))
        feeder = threading.Thread(target=self._feed, args=(process,))
        self._process, self._threads = process, [*outputs, last, feeder]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Kill the process and wait until the other side has hung up."""
        if self._process is not None:
            self._kill(self._process)
        for thread in self._threads:
            thread.join()
        self._process, self._threads = None, []

    def _carry(self, channel: int, stream: Any) -> None:
        with suppress(OSError):
            while data := os.read(stream.fileno(), _CHUNK):
                self._frame(channel, data)
            self._frame(channel, b"")

    def _finish(self, process: subprocess.Popen[bytes], outputs: list[threading.Thread]) -> None:
        for output in outputs:
            output.join()
        with suppress(OSError):
            self._frame(_EXIT, process.wait().to_bytes(4, "big", signed=True))

    def _frame(self, channel: int, data: bytes) -> None:
        with self._writing:
            put(self._handle, bytes((channel,)) + len(data).to_bytes(4, "big") + data)

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        stream: Any = process.stdin
        try:
            while True:
                channel, data = taken(self._handle, 1)[0], message(self._handle)
                with suppress(BrokenPipeError):
                    if data and channel == _INPUT and not stream.closed:
                        put(stream.fileno(), data)
                    elif not data:
                        stream.close()
        except (OSError, EOFError):
            self._kill(process)
