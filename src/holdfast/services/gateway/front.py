"""What stands before a world that has no network: carries bytes between a port and the world's socket.

It sees TLS records and the messages' lengths and times, no more. It needs no trust: whatever it changes, drops or sends
elsewhere ends the session, or never becomes one (see :mod:`holdfast.shielding.attestation.tls`).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdfast.services.gateway.addresses import bound, told

_PIECE = 1 << 16
_START = 10.0  # seconds
_CONNECTIONS = 256


@contextmanager
def forwarding(address: str, path: Path | str, *, connections: int = _CONNECTIONS) -> Iterator[str]:
    """Carry bytes between ``HOST:PORT`` and the AF_UNIX socket ``path`` while the block runs; yield where it listens.

    Args:
        address: port 0 takes any.
        path: need not exist yet; who connects before it does is hung up on.
        connections: at a time; one more is hung up on.

    Raises:
        InvalidConfig: an address that is none.
        WorkerUnreachable: the port cannot be had.
    """
    sock = bound(address)
    loop, up = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=_run, args=(loop, sock, Path(path), connections, up), daemon=True, name="front")
    thread.start()
    try:
        up.wait(_START)
        yield told(address, sock)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _run(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, path: Path, connections: int, up: threading.Event
) -> None:
    asyncio.set_event_loop(loop)
    server = loop.run_until_complete(_listen(sock, path, connections))
    loop.call_soon(up.set)
    loop.run_forever()
    server.close()
    for task in (left := asyncio.all_tasks(loop)):
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


async def _listen(sock: socket.socket, path: Path, connections: int) -> asyncio.Server:
    places = asyncio.Semaphore(connections)
    serving: set[asyncio.Task[None] | None] = set()  # the loop knows its tasks by weak references only

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(task := asyncio.current_task())
        with suppress(OSError, asyncio.CancelledError):  # nobody cancels it but the end
            if not places.locked():
                async with places:
                    await _join(reader, writer, path)
        writer.close()
        serving.discard(task)

    return await asyncio.start_server(serve, sock=sock)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: Path) -> None:
    """Carry bytes both ways until one side has ended and the other has got everything."""
    inner, outer = await asyncio.open_unix_connection(path)
    try:
        await asyncio.gather(_carry(reader, outer), _carry(inner, writer))
    finally:
        outer.close()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await source.read(_PIECE):
            sink.write(piece)
            await sink.drain()  # no faster than the other side reads
    with suppress(OSError):
        sink.write_eof()
