"""Times in signed documents: RFC 3339 in UTC to the second, one spelling for one instant."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from holdfast.errors import InvalidConfig, UnreadableArtifact

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SPAN = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def now() -> datetime:
    """Return this machine's time, in UTC to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def write_time(value: datetime) -> str:
    """Return ``YYYY-MM-DDTHH:MM:SSZ``; raise :class:`InvalidConfig` for a time without a zone, or with fractions."""
    if value.tzinfo is None or value.microsecond:
        raise InvalidConfig(f"{value} is not a time in UTC to the second", hint="use datetime(..., tzinfo=UTC)")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def read_time(value: object, what: str = "time") -> datetime:
    """Read ``YYYY-MM-DDTHH:MM:SSZ``; raise :class:`UnreadableArtifact` for any other spelling or no such instant."""
    if not isinstance(value, str) or not _TIME.fullmatch(value) or not value.isascii():
        raise UnreadableArtifact(f"{what} is {value!r}, not a time like 2026-01-31T12:00:00Z")
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise UnreadableArtifact(f"{what} is {value!r}: {error}") from error


def read_span(value: object, what: str = "span") -> timedelta:
    """Read a length of time such as ``90d`` or ``12h`` (s, m, h, d, w); raise :class:`InvalidConfig` otherwise."""
    found = _SPAN.fullmatch(value) if isinstance(value, str) and value.isascii() else None
    if found is None or int(found[1]) == 0:
        raise InvalidConfig(f"{what} = {value!r} is not a length of time", hint="write 90d, 12h or 30m")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
