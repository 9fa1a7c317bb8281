"""Frames over a connected stream socket."""

from __future__ import annotations

import socket
import time

from holdfast.shielding.transport.wire import MAX_BODY, PREFIX, Frame, announced, described, encode, lost, tensor


class Connection:
    """Sends and receives frames over a connected stream socket, each within ``timeout`` seconds in all.

    Args:
        stream: a connected socket; closed by :meth:`close`.
        timeout: seconds for one whole frame; None waits for ever (the worker's side).
        peer: how messages call the other side.
    """

    def __init__(self, stream: socket.socket, *, timeout: float | None, peer: str) -> None:
        self._stream, self._timeout, self.peer = stream, timeout, peer

    def send(self, frame: Frame) -> None:
        """Send one frame.

        Raises:
            WorkerUnreachable: the peer is gone, or does not read.
        """
        deadline = self._deadline()
        for part in encode(frame):
            self._write(part, deadline)

    def receive(self, *, shape: tuple[int, ...] | None = None, max_body: int = MAX_BODY) -> Frame:
        """Receive one frame, as :class:`~holdfast.shielding.transport.wire.Channel` says."""
        deadline = self._deadline()
        due = announced(bytes(self._read(PREFIX.size, deadline)), self.peer, shape, max_body)
        header, body = described(bytes(self._read(due.header_length, deadline)), due, self.peer)
        if body is None:
            return Frame(due.kind, header)
        return Frame(due.kind, header, tensor(self._read(due.body_length, deadline), *body))

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _arm(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._stream.settimeout(left)

    def _write(self, data: memoryview, deadline: float | None) -> None:
        try:
            while data:
                self._arm(deadline)
                data = data[self._stream.send(data) :]
        except (TimeoutError, OSError) as error:
            raise lost(error, self.peer, self._timeout) from error

    def _read(self, count: int, deadline: float | None) -> bytearray:
        buffer = bytearray(count)
        rest = memoryview(buffer)
        try:
            while rest:
                self._arm(deadline)
                if not (got := self._stream.recv_into(rest)):
                    raise ConnectionError("the connection ended in mid-frame")
                rest = rest[got:]
        except (TimeoutError, OSError) as error:
            raise lost(error, self.peer, self._timeout) from error
        return buffer
