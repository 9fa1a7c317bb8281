"""How code inside a process world gets quotes: it asks its launcher, over a socket it was born with.

The TPM is outside, where the code inside cannot reach it. The launcher signs what the world asks it to: a quote
states the measurement whatever the question is, so there is nothing to be won by asking. ::

    world -> launcher   u16 length | nonce | u16 length | binding
    launcher -> world   u32 length | evidence, or length 0 when there is none       lengths big-endian
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from holdfast.errors import HoldfastError, InvalidConfig, MissingDevice, Unavailable
from holdfast.shielding.attestation import Evidence

VARIABLE = "HOLDFAST_QUOTES"
MAX_ANSWER = 1 << 21
_LOCK = threading.Lock()


class QuoteService:
    """The launcher's side: answers one world in a thread until the world ends.

    Args:
        quote: takes nonce and binding.
    """

    def __init__(self, quote: Callable[[bytes, bytes], Evidence]) -> None:
        self._quote = quote
        self._stream, self.inner = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        with suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._stream.close()

    def _serve(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                nonce, binding = _block(self._stream, 2), _block(self._stream, 2)
                try:
                    answer = self._quote(nonce, binding).to_bytes()
                except HoldfastError:
                    answer = b""
                self._stream.sendall(len(answer).to_bytes(4, "big") + answer)


def in_world() -> bool:
    """Say whether this process was started in a world whose launcher makes quotes for it."""
    return VARIABLE in os.environ


def own_quote(nonce: bytes, binding: bytes = b"") -> Evidence:
    """Return evidence about the world that this is called in; fits :func:`~holdfast.shielding.attestation.tls.accept`.

    Raises:
        MissingDevice: this process runs in no world.
        InvalidConfig: nonce or binding is too long.
        Unavailable: the launcher is gone, or refuses.
    """
    if not in_world():
        raise MissingDevice("this process runs in no world that could be quoted", hint="World.run")
    if max(len(nonce), len(binding)) >= 1 << 16:
        raise InvalidConfig("nonce and binding have fewer than 65,536 bytes each")
    question = b"".join(len(part).to_bytes(2, "big") + part for part in (nonce, binding))
    try:
        with _LOCK, socket.socket(fileno=os.dup(int(os.environ[VARIABLE]))) as stream:
            stream.sendall(question)
            answer = _block(stream, 4)
    except (OSError, EOFError, ValueError) as error:
        raise Unavailable("the world's launcher is gone and makes no quotes") from error
    if not answer:
        raise Unavailable("the world's launcher made no quote", hint="a nonce has at least 16 bytes")
    return Evidence.from_bytes(answer)


def _block(stream: socket.socket, size: int) -> bytes:
    length = int.from_bytes(_exactly(stream, size), "big")
    if length > MAX_ANSWER:
        raise EOFError("too long")
    return _exactly(stream, length)


def _exactly(stream: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return bytes(data)
