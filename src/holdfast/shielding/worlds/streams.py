"""Two streams as one socket, so that an attested session goes through the standard streams of a world.

A world without a network and without a shared folder has nothing else to be reached by. Outside it is
``as_socket(process.stdout.fileno(), process.stdin.fileno())``, inside ``as_socket(0, 1)``; what runs over it, such as
:func:`holdfast.shielding.attestation.tls.connect` and ``accept``, need not know.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK = 1 << 16


@contextmanager
def as_socket(source: int, sink: int) -> Iterator[socket.socket]:
    """Yield a socket that receives what ``source`` gives; what is sent to it is all in ``sink`` at the end."""
    outer, inner = socket.socketpair()
    reader = threading.Thread(target=_read, args=(source, inner), daemon=True)
    writer = threading.Thread(target=_write, args=(inner, sink), daemon=True)
    reader.start()
    writer.start()
    try:
        yield outer
    finally:
        outer.close()
        writer.join()
        inner.close()


def _read(source: int, inner: socket.socket) -> None:
    with suppress(OSError):
        while data := os.read(source, _CHUNK):
            inner.sendall(data)
        inner.shutdown(socket.SHUT_WR)


def _write(inner: socket.socket, sink: int) -> None:
    with suppress(OSError):
        while data := inner.recv(_CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(sink, view) :]
