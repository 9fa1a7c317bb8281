"""The gateway's attested door: sessions in which it has proved what it runs before it is told anything.

It works only where there is evidence to give, inside a world. What the messages are is said in
:mod:`holdfast.shielding.gateway.attested`.
"""

from __future__ import annotations

import errno
import json
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import BoundedSemaphore, Lock, Thread

from holdfast.errors import HoldfastError, MissingDevice, Unavailable
from holdfast.shielding import MutualTls
from holdfast.shielding.attestation import Evidence
from holdfast.shielding.attestation.tls import accept
from holdfast.shielding.attestation.tls_channel import Channel
from holdfast.shielding.gateway import Gateway, Refused
from holdfast.shielding.gateway.attested import ANSWER, REFUSAL, certified
from holdfast.shielding.gateway.signature import SAFETENSORS, write
from holdfast.shielding.worlds import enclave_quote, own_quote
from holdfast.shielding.worlds.quoting import in_world

Quote = Callable[[bytes, bytes], Evidence]
_IDLE = 300.0  # seconds that a client may keep a session without asking
_PAUSE = 0.1  # seconds before the next client after one who could not be let in
_CLOSED = (errno.EBADF, errno.EINVAL)  # what accept says of a listener that was closed
_JOIN = 5.0  # seconds that sessions get to end


def quote_of_this_world() -> Quote:
    """Return what makes evidence here, once it has made some.

    Raises:
        MissingDevice: this process runs in no world that could be quoted.
        Unavailable: the world's launcher makes no quotes.
    """
    quote: Quote = own_quote if in_world() else enclave_quote
    try:
        quote(secrets.token_bytes(32), b"")
    except MissingDevice as error:
        raise MissingDevice(
            "this process runs in no world that could be quoted", hint="start it in a process, vm or gramine world"
        ) from error
    return quote


class AttestedDoor:
    """Answers clients on one listening socket, each in a thread of its own.

    Args:
        gateway: who answers.
        listener: bound and listening; closed by :meth:`close`.
        quote: of the world that this runs in.
        tls: whom to let in; None lets everybody in who can reach the socket.
        sessions: clients at a time; one more is hung up on.
        arrival: seconds in which a client must have opened its session, and in which a request must arrive.
    """

    def __init__(
        self,
        gateway: Gateway,
        listener: socket.socket,
        quote: Quote,
        *,
        tls: MutualTls | None,
        sessions: int,
        arrival: float,
    ) -> None:
        self._gateway, self._listener, self._quote, self._arrival = gateway, listener, quote, arrival
        self._tls, self._places, self._lock = certified(tls), BoundedSemaphore(sessions), Lock()
        self._open: dict[socket.socket, Thread] = {}
        self._closing = False
        self._thread = Thread(target=self._listen, daemon=True, name="attested door")

    def start(self) -> None:
        """Let clients in from now on."""
        self._thread.start()

    def close(self) -> None:
        """Let nobody in any more, end all sessions, and wait a moment for them."""
        self._closing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()
        with self._lock:
            left = dict(self._open)
        for stream in left:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in left.values():
            thread.join(_JOIN)

    def _listen(self) -> None:
        while True:
            try:
                stream = self._listener.accept()[0]
            except OSError as error:
                if error.errno in _CLOSED:
                    return
                time.sleep(_PAUSE)  # whoever knocked has left again, or there are no handles left for now
                continue
            if not self._places.acquire(blocking=False):
                stream.close()
                continue
            thread = Thread(target=self._serve, args=(stream,), daemon=True, name="attested session")
            with self._lock:
                self._open[stream] = thread
            thread.start()

    def _serve(self, stream: socket.socket) -> None:
        try:
            with suppress(HoldfastError):  # a client that is none, or that leaves, is no event
                channel = accept(stream, self._quote, timeout=self._arrival, tls=self._tls)
                try:
                    self._converse(channel)
                finally:
                    channel.close()
        finally:
            with self._lock:
                del self._open[stream]
            stream.close()
            self._places.release()

    def _converse(self, channel: Channel) -> None:
        channel.timeout = _IDLE
        while not self._closing:
            channel.send(self._answer(channel))

    def _answer(self, channel: Channel) -> bytes:
        length = channel.announced()
        if not length:
            gateway = self._gateway
            return ANSWER + json.dumps(gateway.signature.to_json() | {"max_body": gateway.max_body}).encode()
        try:
            inputs = self._gateway.read(self._arrived(channel, length), SAFETENSORS)
            return ANSWER + write(self._gateway.submit(inputs).wait(), SAFETENSORS)
        except Refused as refused:
            return REFUSAL + json.dumps(refused.to_json()).encode()

    def _arrived(self, channel: Channel, length: int) -> bytes:
        """Return a request of bounded length that arrives in bounded time."""
        with channel.within(self._arrival):
            try:
                with self._gateway.arriving(length) as keep:
                    keep(length)  # those who come here showed certificates, or are this machine
                    return channel.rest(length)
            except Refused:
                channel.skip(length)
                raise
            except Unavailable:
                self._gateway.counted(Refused("the client left, or was too slow", outcome="gone"))
                raise
