"""Frames between two processes of one machine: bodies in shared memory, everything else in packets.

The trusted side makes two memfds, seals their sizes so that neither side can cut the other's mapping short, and hands
them over a SEQPACKET socket. What it writes, the worker can only map for reading (``F_SEAL_FUTURE_WRITE``). A packet
is the prefix of :mod:`~holdfast.shielding.transport.wire`, the body's offset (u64), and the header: one packet, read
at once, cannot change under our eyes. A body can, so it is copied into private memory before anything looks at it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from contextlib import suppress

import numpy as np

from holdfast.errors import IntegrityError, InvalidConfig, MissingDevice, WorkerUnreachable
from holdfast.shielding.transport.wire import (
    MAX_BODY,
    MAX_HEADER,
    PREFIX,
    Frame,
    announced,
    described,
    encode,
    lost,
    tensor,
)

_OFFSET = struct.Struct("<Q")
_OFFER = struct.Struct("<4sQQ")
_OFFER_MAGIC = b"HFSM"
_FUTURE_WRITE = 0x0010  # F_SEAL_FUTURE_WRITE, which Python's fcntl does not name
_LAPS = 4  # a ring wraps when it has come so many largest messages far, so it stays small until it must grow
_ALIGN = 64


class Ring:
    """One direction of shared memory: one side writes message after message, the other copies them out.

    Args:
        handle: of a memfd; closed by this object.
        size: bytes.
        writable: whether this side writes.
    """

    def __init__(self, handle: int, size: int, *, writable: bool) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            self._map = mmap.mmap(handle, size, mmap.MAP_SHARED, access)
        finally:
            if not writable:
                os.close(handle)
        self._handle = handle if writable else -1
        self.size, self._at, self._largest = size, 0, 0

    @classmethod
    def make(cls, name: str, size: int) -> tuple[Ring, int]:
        """Make a ring that this side writes; return it and a handle that can only be read."""
        handle = _memfd(name, size)
        ring = cls(handle, size, writable=True)
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _FUTURE_WRITE)
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
        return ring, handle

    def write(self, body: memoryview) -> int:
        """Copy ``body`` in and return its offset.

        Raises:
            InvalidConfig: it is longer than the ring.
        """
        if len(body) > self.size:
            raise InvalidConfig(
                f"a message of {len(body)} bytes does not fit a ring of {self.size}",
                hint="send fewer images at a time, or give the session a larger ring",
            )
        self._largest = max(self._largest, len(body))
        if self._at + len(body) > min(self.size, _LAPS * self._largest):
            self._at = 0
        offset, self._at = self._at, self._at + -(-len(body) // _ALIGN) * _ALIGN
        self._map[offset : offset + len(body)] = body
        return offset

    def copy_in(self, offset: int, length: int, peer: str) -> np.ndarray:
        """Return a private copy of what lies there; the bounds are checked first."""
        if offset + length > self.size:
            raise IntegrityError(f"{peer} points at bytes {offset} .. {offset + length} of a ring of {self.size}")
        view = np.frombuffer(self._map, dtype=np.uint8, count=length, offset=offset)
        return view.copy()

    def close(self) -> None:
        """Unmap; more than once does no harm."""
        with suppress(BufferError):
            self._map.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _memfd(name: str, size: int) -> int:
    if not hasattr(os, "memfd_create"):
        raise MissingDevice("shared memory between worlds needs Linux", hint="use worker='unix:PATH' here")
    handle = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(handle, size)
    return handle


class SharedConnection:
    """Sends and receives frames through two rings.

    Args:
        signals: a connected SEQPACKET socket; closed by :meth:`close`.
        outgoing: the ring this side writes.
        incoming: the ring the other side writes.
        timeout: seconds for one frame; None waits for ever (the worker's side).
        peer: how messages call the other side.
    """

    def __init__(
        self, signals: socket.socket, outgoing: Ring, incoming: Ring, *, timeout: float | None, peer: str
    ) -> None:
        self._signals, self._timeout, self.peer = signals, timeout, peer
        self._outgoing, self._incoming = outgoing, incoming
        self._packet = bytearray(PREFIX.size + _OFFSET.size + MAX_HEADER + 1)

    def send(self, frame: Frame) -> None:
        """Send one frame.

        Raises:
            WorkerUnreachable: the peer is gone, or does not read.
            InvalidConfig: the body is longer than the ring.
        """
        head, body = encode(frame)
        offset = self._outgoing.write(body) if len(body) else 0
        packet = b"".join((head[: PREFIX.size], _OFFSET.pack(offset), head[PREFIX.size :]))
        try:
            self._signals.settimeout(self._timeout)
            self._signals.send(packet)
        except (TimeoutError, OSError) as error:
            raise lost(error, self.peer, self._timeout) from error

    def receive(self, *, shape: tuple[int, ...] | None = None, max_body: int = MAX_BODY) -> Frame:
        """Receive one frame, as :class:`~holdfast.shielding.transport.wire.Channel` says."""
        packet = self._next_packet()
        if len(packet) < PREFIX.size + _OFFSET.size:
            raise IntegrityError(f"{self.peer} sends a packet of {len(packet)} bytes, shorter than any frame")
        due = announced(packet[: PREFIX.size], self.peer, shape, max_body)
        (offset,) = _OFFSET.unpack_from(packet, PREFIX.size)
        text = packet[PREFIX.size + _OFFSET.size :]
        if len(text) != due.header_length:
            raise IntegrityError(f"{self.peer} announces {due.header_length} header bytes and sends {len(text)}")
        header, body = described(text, due, self.peer)
        if body is None:
            return Frame(due.kind, header)
        return Frame(due.kind, header, tensor(self._incoming.copy_in(offset, due.body_length, self.peer), *body))

    def close(self) -> None:
        """Close the socket and unmap the rings."""
        self._signals.close()
        self._outgoing.close()
        self._incoming.close()

    def _next_packet(self) -> bytes:
        try:
            self._signals.settimeout(self._timeout)
            count = self._signals.recv_into(self._packet)
        except (TimeoutError, OSError) as error:
            raise lost(error, self.peer, self._timeout) from error
        if count == 0:
            raise WorkerUnreachable(f"{self.peer} is gone: the connection ended")
        return bytes(self._packet[:count])


def offer(signals: socket.socket, size: int, *, timeout: float | None, peer: str) -> SharedConnection:
    """Make both rings, hand them to the other side, and return our end.

    Args:
        signals: a connected SEQPACKET socket.
        size: bytes of each ring; pages that no message touches cost nothing.

    Raises:
        WorkerUnreachable: the peer is gone.
    """
    questions, readable = Ring.make("holdfast-questions", size)
    handle = _memfd("holdfast-answers", size)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    try:
        signals.settimeout(timeout)
        socket.send_fds(signals, [_OFFER.pack(_OFFER_MAGIC, size, size)], [readable, handle])
        answers = Ring(os.dup(handle), size, writable=False)
    except OSError as error:
        questions.close()
        raise lost(error, peer, timeout) from error
    finally:
        os.close(handle)
    return SharedConnection(signals, questions, answers, timeout=timeout, peer=peer)


def accept(signals: socket.socket, *, timeout: float | None, peer: str) -> SharedConnection:
    """Take the rings that :func:`offer` sends, and return the worker's end.

    Raises:
        IntegrityError: something else was offered, or memory that could shrink under our feet.
        WorkerUnreachable: the peer is gone.
    """
    try:
        signals.settimeout(timeout)
        data, handles, _, _ = socket.recv_fds(signals, _OFFER.size, 2)
    except OSError as error:
        raise lost(error, peer, timeout) from error
    try:
        if len(handles) != 2 or len(data) != _OFFER.size or data[:4] != _OFFER_MAGIC:
            raise IntegrityError(f"{peer} does not offer two rings of shared memory")
        _, question, answer = _OFFER.unpack(data)
        for handle, size in zip(handles, (question, answer), strict=True):
            if not fcntl.fcntl(handle, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK or os.fstat(handle).st_size != size:
                raise IntegrityError(f"{peer} offers shared memory that is not sealed at {size} bytes")
        incoming = Ring(os.dup(handles[0]), question, writable=False)
        outgoing = Ring(os.dup(handles[1]), answer, writable=True)
    finally:
        for handle in handles:
            os.close(handle)
    return SharedConnection(signals, outgoing, incoming, timeout=timeout, peer=peer)
