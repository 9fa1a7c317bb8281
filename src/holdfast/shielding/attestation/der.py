"""A certificate read without judging its serial number: AMD's chip certificates have number 0.

RFC 5280 forbids that, and general libraries warn of it today and will refuse it. The fields needed here are few, so
they are read directly from DER (X.690, definite lengths only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from holdfast.errors import UnreadableArtifact
from holdfast.shielding.attestation.cursor import Cursor

_INTEGER, _BITS, _OCTETS, _OID, _UTC, _TIME, _SEQUENCE = 0x02, 0x03, 0x04, 0x06, 0x17, 0x18, 0x30
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_MAX_EXTENSIONS = 32


@dataclass(frozen=True, slots=True)
class BareCertificate:
    """The parts of a certificate that a chip's chain needs, with the bytes they were signed as."""

    signed: bytes
    algorithm: bytes
    signature: bytes
    issuer: bytes
    start: datetime
    end: datetime
    key: object
    extensions: Mapping[str, bytes]


def read_certificate(data: bytes, what: str) -> BareCertificate:
    """Read one certificate from DER.

    Raises:
        UnreadableArtifact: not exactly one certificate of version 3 in DER.
    """
    whole = Cursor(data, what, "big")
    outer = _inside(whole, _SEQUENCE)
    whole.end()
    start = outer.place
    body = _inside(outer, _SEQUENCE)
    signed = _slice(data, outer, start)
    algorithm = _raw(outer, _SEQUENCE)
    signature = _value(outer, _BITS)
    outer.end()
    if signature[:1] != b"\0":
        raise UnreadableArtifact(f"the {what} has a signature of a broken number of bytes")
    return _fields(body, signed, algorithm, signature[1:])


def _slice(data: bytes, cursor: Cursor, start: int) -> bytes:
    """Return the bytes that ``cursor``, which reads to the end of ``data``, took since its place was ``start``."""
    offset = len(data) - cursor.left - cursor.place
    return data[offset + start : offset + cursor.place]


def _fields(body: Cursor, signed: bytes, algorithm: bytes, signature: bytes) -> BareCertificate:
    if _value(body, _VERSION) != b"\x02\x01\x02":
        raise UnreadableArtifact(f"the {body.what} is not of version 3")
    _value(body, _INTEGER)  # the serial number, whatever it is
    if _raw(body, _SEQUENCE) != algorithm:
        raise UnreadableArtifact(f"the {body.what} names two different signature algorithms")
    issuer = _raw(body, _SEQUENCE)
    times = _inside(body, _SEQUENCE)
    start, end = _time(times), _time(times)
    times.end()
    _raw(body, _SEQUENCE)  # the subject is the same on every chip
    key = _key(_raw(body, _SEQUENCE), body.what)
    extensions = _extensions(_inside(_inside(body, _EXTENSIONS), _SEQUENCE))
    body.end()
    return BareCertificate(signed, algorithm, signature, issuer, start, end, key, extensions)


def _extensions(cursor: Cursor) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    while cursor.left:
        item = _inside(cursor, _SEQUENCE)
        name = _dotted(_value(item, _OID))
        tag, value = _next(item)
        if tag == 0x01:  # critical, or not: each one that counts is asked for by name
            tag, value = _next(item)
        item.end()
        if tag != _OCTETS or name in found or len(found) >= _MAX_EXTENSIONS:
            raise UnreadableArtifact(f"the {cursor.what} has a malformed, a second or a surplus extension {name}")
        found[name] = value
    return found


def integer(data: bytes, what: str) -> int:
    """Return the non-negative INTEGER that ``data`` is the DER of."""
    cursor = Cursor(data, what, "big")
    value = _value(cursor, _INTEGER)
    cursor.end()
    return int.from_bytes(value, "big")


def text(data: bytes, what: str) -> str:
    """Return the ASCII string, of whichever string type, that ``data`` is the DER of."""
    cursor = Cursor(data, what, "big")
    _, value = _next(cursor)
    cursor.end()
    try:
        return value.decode("ascii")
    except ValueError as error:
        raise UnreadableArtifact(f"the {what} holds a text that is not ASCII") from error


def _next(cursor: Cursor) -> tuple[int, bytes]:
    tag, length = cursor.number(1), cursor.number(1)
    if length >= 0x80:
        size = length - 0x80
        if not 1 <= size <= 3:
            raise UnreadableArtifact(f"the {cursor.what} has a length that DER does not allow")
        length = cursor.number(size)
        if length < 0x80 or length.bit_length() <= 8 * (size - 1):
            raise UnreadableArtifact(f"the {cursor.what} has a length that is not the shortest")
    return tag, cursor.take(length)


def _value(cursor: Cursor, tag: int) -> bytes:
    found, value = _next(cursor)
    if found != tag:
        raise UnreadableArtifact(f"the {cursor.what} has tag {found:#04x} where {tag:#04x} belongs")
    return value


def _inside(cursor: Cursor, tag: int) -> Cursor:
    return Cursor(_value(cursor, tag), cursor.what, "big")


def _raw(cursor: Cursor, tag: int) -> bytes:
    """Return a value with its tag and length, encoded again; lengths are the shortest, so the bytes are the same."""
    value = _value(cursor, tag)
    if len(value) < 0x80:
        return bytes((tag, len(value))) + value
    size = (len(value).bit_length() + 7) // 8
    return bytes((tag, 0x80 + size)) + len(value).to_bytes(size, "big") + value


def _time(cursor: Cursor) -> datetime:
    tag, value = _next(cursor)
    pattern = {_UTC: "%y%m%d%H%M%SZ", _TIME: "%Y%m%d%H%M%SZ"}.get(tag)
    try:
        if pattern is None:
            raise ValueError("it is no time")
        found = datetime.strptime(value.decode("ascii"), pattern).replace(tzinfo=UTC)
        return found.replace(year=found.year - 100) if tag == _UTC and found.year >= 2050 else found
    except ValueError as error:
        raise UnreadableArtifact(f"the {cursor.what} has an unreadable time of validity") from error


def _key(data: bytes, what: str) -> object:
    try:
        return load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnreadableArtifact(f"the {what} certifies a key that cannot be read") from error


def _dotted(value: bytes) -> str:
    numbers, current = [], 0
    for byte in value:
        current = current << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(current)
            current = 0
    first = numbers[0] if numbers else 0
    head = min(first // 40, 2)
    return ".".join(map(str, (head, first - 40 * head, *numbers[1:])))
