"""The frames between a session and its worker: validated before they are allocated, and never a pickle.

::

    magic "HFWK" | version u16 | kind u16 | header length u32 | body length u64 | header | body      little-endian

The header is canonical JSON (RFC 8785). The body is empty or one tensor, raw little-endian int8 or int32 in C order,
whose ``dtype`` and ``shape`` the header states. Each side knows the shape it waits for, so a length that does not fit
is refused before a byte of body is read. The peer is the adversary: it may send anything, stop at any byte, or never
answer. Streams, shared memory and remote calls all carry these frames.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import HoldfastError, IntegrityError, UnsupportedVersion, WorkerUnreachable
from holdfast.evidence import canonical

MAGIC = b"HFWK"
VERSION = 2
MAX_HEADER = 64 * 1024
MAX_BODY = 2**30
MAX_DIMS = 8
PREFIX = struct.Struct("<4sHHIQ")
_DTYPES = {"int8": (torch.int8, "<i1"), "int32": (torch.int32, "<i4")}
_NAMES = {dtype: name for name, (dtype, _) in _DTYPES.items()}


class Kind(IntEnum):
    """What a frame says."""

    HELLO = 1  # both ways: tool version, nonce of the session; from the worker also its kernel and device
    LOAD = 2  # layer, geometry, perhaps the sample and the planes of questions to come; body: weights
    LOADED = 3  # layer
    RUN = 4  # layer, sequence, nonce, mask; body: byte planes of residues, or codes in the clear
    RESULT = 5  # layer, sequence, nonce, mask; body: residues
    ERROR = 6  # message
    BYE = 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; ``body`` is int8 or int32 of the header's ``shape``, or None."""

    kind: Kind
    header: Mapping[str, Any] = field(default_factory=dict)
    body: Tensor | None = None


class Channel(Protocol):
    """Carries frames to and from one peer.

    Attributes:
        peer: how messages call the other side.
    """

    peer: str

    def send(self, frame: Frame) -> None:
        """Send one frame; raise WorkerUnreachable when the peer is gone or does not read."""
        ...

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
        ...

    def close(self) -> None:
        """End the conversation."""
        ...


@dataclass(frozen=True, slots=True)
class Announced:
    """What the prefix of a frame announces, found acceptable."""

    kind: Kind
    header_length: int
    body_length: int
    shape: tuple[int, ...] | None  # the only one to accept


def announced(raw: bytes, peer: str, shape: tuple[int, ...] | None, max_body: int) -> Announced:
    """Read a prefix and judge its lengths, before anything else is read.

    Raises:
        IntegrityError: not a prefix, or a body of another length than awaited.
        UnsupportedVersion: a frame of another protocol version.
    """
    magic, version, number, header_length, body_length = PREFIX.unpack(raw)
    if magic != MAGIC:
        raise IntegrityError(f"{peer} does not speak the worker protocol")
    if version != VERSION:
        raise UnsupportedVersion(
            f"{peer} speaks version {version} of the worker protocol, this session version {VERSION}",
            hint="install the same Holdfast on both sides",
        )
    if number not in set(Kind) or header_length > MAX_HEADER:
        raise IntegrityError(f"{peer} sends a frame of kind {number} with {header_length} header bytes")
    kind = Kind(number)
    only = shape if kind is Kind.RESULT else None
    wanted = None if only is None else 4 * math.prod(only)
    if body_length > max_body or (wanted is not None and body_length != wanted):
        expected = f"at most {max_body}" if wanted is None else str(wanted)
        raise IntegrityError(f"{peer} announces a body of {body_length} bytes instead of {expected}")
    return Announced(kind, header_length, body_length, only)


def described(raw: bytes, due: Announced, peer: str) -> tuple[dict[str, Any], tuple[str, tuple[int, ...]] | None]:
    """Read a header; return it and the dtype name and shape of the body, or None if there is no body.

    Raises:
        IntegrityError: not canonical JSON, or a shape that does not fit the announced length.
    """
    header = _header(raw, peer)
    if due.body_length == 0 and "shape" not in header:
        return header, None
    shape, name = _shape(header.get("shape"), peer), header.get("dtype")
    if name not in _DTYPES:
        raise IntegrityError(f"{peer} sends a tensor of type {name!r:.40}")
    wrong = due.shape is not None and (shape, name) != (due.shape, "int32")
    if wrong or math.prod(shape) * np.dtype(_DTYPES[name][1]).itemsize != due.body_length:
        raise IntegrityError(f"{peer} sends {due.body_length} bytes as {name} of shape {shape}")
    return header, (name, shape)


def tensor(raw: bytearray | np.ndarray, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return private bytes as a tensor; the caller gives them away."""
    dtype, code = _DTYPES[name]
    array = np.frombuffer(raw, dtype=code).astype(np.dtype(code).newbyteorder("="), copy=False)
    return torch.from_numpy(array).to(dtype).view(shape)


def encode(frame: Frame) -> list[memoryview]:
    """Return the bytes of a frame as prefix with header, and body."""
    header = dict(frame.header)
    body = memoryview(b"")
    if frame.body is not None:
        name = _NAMES[frame.body.dtype]
        header["shape"], header["dtype"] = list(frame.body.shape), name
        array = frame.body.detach().cpu().contiguous().numpy().astype(_DTYPES[name][1], copy=False)
        body = array.reshape(-1).view(np.uint8).data
    text = _text(header)
    prefix = PREFIX.pack(MAGIC, VERSION, int(frame.kind), len(text), len(body))
    return [memoryview(prefix + text), body]


def parsed(raw: bytes, peer: str, *, shape: tuple[int, ...] | None = None, max_body: int = MAX_BODY) -> Frame:
    """Read one whole frame.

    Raises:
        IntegrityError, UnsupportedVersion: it is not the frame that is due.
    """
    if len(raw) < PREFIX.size:
        raise IntegrityError(f"{peer} sends {len(raw)} bytes, shorter than any frame")
    due = announced(raw[: PREFIX.size], peer, shape, max_body)
    start = PREFIX.size + due.header_length
    if len(raw) != start + due.body_length:
        raise IntegrityError(f"{peer} sends {len(raw)} bytes and announces {start + due.body_length}")
    header, body = described(raw[PREFIX.size : start], due, peer)
    return Frame(due.kind, header, None if body is None else tensor(bytearray(raw[start:]), *body))


def lost(error: OSError, peer: str, timeout: float | None) -> HoldfastError:
    """Return what a broken or silent connection means to the caller."""
    if isinstance(error, TimeoutError):
        return WorkerUnreachable(f"{peer} did not answer within {timeout:g} seconds")
    return WorkerUnreachable(f"{peer} is gone: {error.strerror or error}")


def _text(header: Mapping[str, Any]) -> bytes:
    """Return canonical JSON; for ASCII keys and no fractions, which is all a header has, json writes it so."""
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _header(raw: bytes, peer: str) -> dict[str, Any]:
    try:
        header = canonical.loads(raw, what="header", max_bytes=MAX_HEADER)
        again = _text(header) if isinstance(header, dict) else b""
    except (HoldfastError, ValueError) as error:
        raise IntegrityError(f"{peer} sends a header that is not canonical JSON: {error}") from error
    if not isinstance(header, dict) or again != raw:
        raise IntegrityError(f"{peer} sends a header that is not canonical JSON")
    return header


def _shape(value: object, peer: str) -> tuple[int, ...]:
    sides = value if isinstance(value, list) and len(value) <= MAX_DIMS else [None]
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 0 for side in sides):
        raise IntegrityError(f"{peer} sends a tensor without a usable shape")
    return tuple(sides)
