"""The frames between a session and its worker: validated before they are allocated, and never a pickle.

::

    magic "HFWK" | version u16 | kind u16 | header length u32 | body length u64 | header | body      little-endian

The header is canonical JSON (RFC 8785). The body is empty or one tensor, raw little-endian int32 in C order, whose
``shape`` the header states. Each side knows the shape it waits for, so a length that does not fit is refused before a
byte of body is read. The peer is the adversary: it may send anything, stop at any byte, or never answer.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import HoldfastError, IntegrityError, UnsupportedVersion, WorkerUnreachable
from holdfast.evidence import canonical

MAGIC = b"HFWK"
VERSION = 1
MAX_HEADER = 64 * 1024
MAX_BODY = 2**30
MAX_DIMS = 8
_PREFIX = struct.Struct("<4sHHIQ")


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1  # both ways: tool version
    LOAD = 2  # layer, geometry, shape; body: weights
    LOADED = 3  # layer
    RUN = 4  # layer, sequence, shape; body: residues
    RESULT = 5  # layer, sequence, shape; body: residues
    ERROR = 6  # message
    BYE = 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; ``body`` is int32 of the header's ``shape``, or None."""

    kind: Kind
    header: Mapping[str, Any] = field(default_factory=dict)
    body: Tensor | None = None


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
        """Receive one frame.

        Args:
            shape: the only body shape to accept in a RESULT; None accepts any within ``max_body`` bytes.
            max_body: refuse longer bodies before allocating them.

        Raises:
            WorkerUnreachable: silence past the time-out, or the connection ended.
            IntegrityError: bytes that are not a frame, or a body of another size or shape.
            UnsupportedVersion: a frame of another protocol version.
        """
        deadline = self._deadline()
        kind, header_length, body_length = self._prefix(bytes(self._read(_PREFIX.size, deadline)))
        wanted = 4 * math.prod(shape) if shape is not None and kind is Kind.RESULT else None
        if body_length > max_body or (wanted is not None and body_length != wanted):
            expected = f"at most {max_body}" if wanted is None else str(wanted)
            raise IntegrityError(f"{self.peer} announces a body of {body_length} bytes instead of {expected}")
        header = _header(bytes(self._read(header_length, deadline)), self.peer)
        if body_length == 0 and "shape" not in header:
            return Frame(kind, header)
        found = _shape(header.get("shape"), self.peer)
        if 4 * math.prod(found) != body_length or (wanted is not None and found != shape):
            raise IntegrityError(f"{self.peer} sends {body_length} bytes as shape {found}")
        return Frame(kind, header, _tensor(self._read(body_length, deadline), found))

    def close(self) -> None:
        """Close the socket."""
        self._stream.close()

    def _prefix(self, raw: bytes) -> tuple[Kind, int, int]:
        magic, version, kind, header_length, body_length = _PREFIX.unpack(raw)
        if magic != MAGIC:
            raise IntegrityError(f"{self.peer} does not speak the worker protocol")
        if version != VERSION:
            raise UnsupportedVersion(
                f"{self.peer} speaks version {version} of the worker protocol, this session version {VERSION}",
                hint="install the same Holdfast on both sides",
            )
        if kind not in set(Kind) or header_length > MAX_HEADER:
            raise IntegrityError(f"{self.peer} sends a frame of kind {kind} with {header_length} header bytes")
        return Kind(kind), header_length, body_length

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
            raise self._lost(error) from error

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
            raise self._lost(error) from error
        return buffer

    def _lost(self, error: OSError) -> HoldfastError:
        if isinstance(error, TimeoutError):
            return WorkerUnreachable(f"{self.peer} did not answer within {self._timeout:g} seconds")
        return WorkerUnreachable(f"{self.peer} is gone: {error.strerror or error}")


def encode(frame: Frame) -> list[memoryview]:
    """Return the bytes of a frame as prefix with header, and body."""
    header = dict(frame.header)
    body = memoryview(b"")
    if frame.body is not None:
        header["shape"] = list(frame.body.shape)
        array = frame.body.detach().to("cpu", torch.int32).contiguous().numpy().astype("<i4", copy=False)
        body = array.reshape(-1).view(np.uint8).data
    text = canonical.dumps(header)
    prefix = _PREFIX.pack(MAGIC, VERSION, int(frame.kind), len(text), len(body))
    return [memoryview(prefix + text), body]


def _header(raw: bytes, peer: str) -> dict[str, Any]:
    try:
        header = canonical.loads(raw, what="header", max_bytes=MAX_HEADER)
        again = canonical.dumps(header)
    except HoldfastError as error:
        raise IntegrityError(f"{peer} sends a header that is not canonical JSON: {error}") from error
    if not isinstance(header, dict) or again != raw:
        raise IntegrityError(f"{peer} sends a header that is not canonical JSON")
    return header


def _shape(value: object, peer: str) -> tuple[int, ...]:
    sides = value if isinstance(value, list) and len(value) <= MAX_DIMS else [None]
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 0 for side in sides):
        raise IntegrityError(f"{peer} sends a tensor without a usable shape")
    return tuple(sides)


def _tensor(raw: bytearray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.frombuffer(raw, dtype="<i4").astype(np.int32, copy=False)).view(shape)
