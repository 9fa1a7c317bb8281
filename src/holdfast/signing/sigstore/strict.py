"""Members of JSON objects, read strictly: each has one type and one spelling, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from holdfast.errors import UnreadableArtifact
from holdfast.signing.envelope import from_base64

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?Z")
_DIGITS = re.compile(r"0|[1-9][0-9]{0,15}")


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a JSON object; raise :class:`UnreadableArtifact` otherwise."""
    if not isinstance(value, dict):
        raise UnreadableArtifact(f"{what} is missing or no object")
    return value


def member(value: Any, *path: str) -> Mapping[str, Any]:
    """Return the object at ``path`` below the object ``value``."""
    result = mapping(value, path[0])
    for place, key in enumerate(path):
        result = mapping(result.get(key), ".".join(path[: place + 1]))
    return result


def listed(value: Any, what: str, *, most: int) -> list[Any]:
    """Return ``value`` if it is a list of at most ``most`` entries; nothing at all is the empty list."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise UnreadableArtifact(f"{what} is no list of at most {most} entries")
    return value


def text(value: Any, what: str, *, most: int = 1 << 16) -> str:
    """Return ``value`` if it is text of 1 to ``most`` characters."""
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise UnreadableArtifact(f"{what} is missing or no text of at most {most} characters")
    return value


def binary(value: Any, what: str, *, length: int | None = None) -> bytes:
    """Return the bytes of canonical base64; ``length`` of them if that is given."""
    data = from_base64(value, what)
    if not data or (length is not None and len(data) != length):
        raise UnreadableArtifact(f"{what} has {len(data)} bytes, not {length or 'any'}")
    return data


def whole(value: Any, what: str) -> int:
    """Return a whole number below 10**16: a JSON number, or digits as protobuf writes 64-bit ones; absent is 0."""
    if value is None:
        return 0
    spelled = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(spelled, str) or not _DIGITS.fullmatch(spelled):
        raise UnreadableArtifact(f"{what} is {value!r}, no whole number")
    return int(spelled)


def moment(value: Any, what: str) -> datetime:
    """Return an RFC 3339 time in UTC, to the second below."""
    found = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise UnreadableArtifact(f"{what} is {value!r}, no UTC time")
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
    except ValueError as error:
        raise UnreadableArtifact(f"{what} is {value!r}, which no calendar has") from error
