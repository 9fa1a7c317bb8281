"""Messages over one TLS 1.3 session, within time limits, and the secret that only its two ends know."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from holdfast.errors import IntegrityError, InvalidConfig, Unavailable
from holdfast.shielding.attestation.tls_context import Certified, context, library

LABEL = b"EXPORTER-holdfast-attestation-v1"
MAX_MESSAGE = 64 << 20  # bytes
_PIECE = 1 << 16
_NEVER = float("inf")
T = TypeVar("T")


class Channel:
    """One TLS 1.3 connection that carries messages: byte strings of at most 64 MiB, each sent whole.

    Made by :func:`connect` and :func:`accept`, which leave it attested.

    Args:
        stream: connected socket.
        server: which end this is.
        timeout: seconds for the handshake; then of silence after which the session ends, and may be changed.
        tls: who we are, and whom we let in; the certificates say nothing about what runs at the other end.
    """

    def __init__(self, stream: socket.socket, *, server: bool, timeout: float, tls: Certified | None = None) -> None:
        self._library = library()
        self._stream, self.timeout, self._until = stream, timeout, _NEVER
        self._tls = self._library.Connection(context(tls, server=server), None)
        (self._tls.set_accept_state if server else self._tls.set_connect_state)()
        with self.within(timeout):
            self._driven(self._tls.do_handshake)

    @property
    def exporter(self) -> bytes:
        """32 bytes that only the two ends of this session know."""
        value: bytes = self._tls.export_keying_material(LABEL, 32)
        return value

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            InvalidConfig: longer than 64 MiB.
            Unavailable: the other side is gone, or does not read.
        """
        if len(message) > MAX_MESSAGE:
            raise InvalidConfig(f"a message has at most {MAX_MESSAGE} bytes")
        rest = memoryview(len(message).to_bytes(4, "big") + message)
        while rest:
            piece = rest[:_PIECE]
            rest = rest[self._driven(partial(self._tls.send, piece)) :]

    def receive(self, *, limit: int = MAX_MESSAGE) -> bytes:
        """Return the next message.

        Raises:
            IntegrityError: it is announced as longer than ``limit``.
            Unavailable: the other side is gone, or silent for too long.
        """
        return self.rest(self.announced(limit=limit))

    def announced(self, *, limit: int = MAX_MESSAGE) -> int:
        """Return the length of the next message, which :meth:`rest` or :meth:`skip` must read.

        Raises:
            IntegrityError, Unavailable: as :meth:`receive`.
        """
        length = int.from_bytes(self._exactly(4), "big")
        if length > limit:
            raise IntegrityError(f"the other side announces a message of {length} bytes, more than {limit}")
        return length

    def rest(self, length: int) -> bytes:
        """Return the message of the announced length."""
        return self._exactly(length)

    def skip(self, length: int) -> None:
        """Read the message of the announced length and keep nothing of it."""
        for start in range(0, length, _PIECE):
            self._exactly(min(_PIECE, length - start))

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Allow everything in this block ``seconds`` in all, however often the other side says a little."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = _NEVER

    def close(self) -> None:
        """Say goodbye and close the socket."""
        with contextlib.suppress(self._library.Error, Unavailable):
            self._tls.shutdown()
            self._flush()
        self._stream.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            wanted = min(count - len(data), _PIECE)
            data += self._driven(partial(self._tls.recv, wanted))
        return bytes(data)

    def _driven(self, step: Callable[[], T]) -> T:
        """Do one step of the protocol, moving bytes between it and the socket for as long as it wants some."""
        while True:
            try:
                result = step()
                self._flush()
            except self._library.WantReadError:
                self._feed()
            except self._library.Error as error:
                with contextlib.suppress(Unavailable):
                    self._flush()  # the alert that tells the other side
                raise Unavailable(f"the attested session broke off: {_said(error)}") from error
            else:
                return result

    def _flush(self) -> None:
        """Hand on what TLS has written."""
        while True:
            try:
                data = self._tls.bio_read(_PIECE)
            except self._library.WantReadError:
                return
            self._on_socket(partial(self._stream.sendall, data))

    def _feed(self) -> None:
        """Hand on what TLS has written, and wait for something it can read."""
        self._flush()
        data = self._on_socket(partial(self._stream.recv, _PIECE))
        if not data:
            raise Unavailable("the attested session broke off: the other side closed it")
        self._tls.bio_write(data)

    def _on_socket(self, step: Callable[[], T]) -> T:
        try:
            left = min(self.timeout, self._until - time.monotonic())
            if left <= 0:
                raise TimeoutError
            self._stream.settimeout(left)
            return step()
        except OSError as error:
            raise Unavailable(f"the attested session broke off: {_said(error)}") from error


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the other side was silent for too long"
    reasons = error.args[0] if error.args else ""
    if isinstance(reasons, list) and reasons:
        return str(reasons[0][-1])
    return str(error) or "the other side closed it"
