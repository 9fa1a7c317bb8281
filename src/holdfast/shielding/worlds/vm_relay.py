"""Makes the standard streams of a module in a vm world those of a process here. Run by path, standard library only.

``python -IS vm_relay.py HANDLE`` with a connected socket; the frames are those of :mod:`vm_ports`. It exits as the
module did, with 128 and the signal's number where a signal ended it, or with 74 when the machine is gone.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

_CHUNK = 1 << 16
_OUTPUTS, _EXIT = (1, 2), 3
_LIMIT = 1 << 22  # bytes of one frame
_GONE = 74


def _give(connection: socket.socket) -> None:
    with suppress(OSError):
        while data := os.read(0, _CHUNK):
            connection.sendall(b"\0" + len(data).to_bytes(4, "big") + data)
        connection.sendall(bytes(5))


def _take(stream: BinaryIO) -> int:
    """Write what comes to the standard outputs; return the exit code."""
    while len(head := stream.read(5)) == 5:
        channel, length = head[0], int.from_bytes(head[1:], "big")
        if length > _LIMIT:
            break
        data = stream.read(length)
        if channel == _EXIT and len(data) == 4:
            code = int.from_bytes(data, "big", signed=True)
            return code if code >= 0 else 128 - code
        if channel in _OUTPUTS:
            with suppress(BrokenPipeError):
                _write(channel, data)
    return _GONE


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def main(handle: int) -> None:
    """Relay until the module ends."""
    connection = socket.socket(fileno=handle)
    threading.Thread(target=_give, args=(connection,), daemon=True).start()
    code = _take(connection.makefile("rb"))
    os._exit(code)  # without waiting for an input that nobody reads any more


if __name__ == "__main__":
    main(int(sys.argv[1]))
