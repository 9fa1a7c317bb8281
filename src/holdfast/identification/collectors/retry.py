"""When to ask again, and how long to wait first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive

# 408 and 425 ask for it; 429 and 529 are too many requests; 5xx but 501 and 505 pass
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
CROWDED = frozenset({429, 503, 529})  # the server is busy with everybody, so everybody waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long a request is tried.

    Attributes:
        attempts: how often a request is sent at most.
        first: seconds before the second attempt, doubled with every further one; half of it is drawn at random, so
            that requests which failed together do not return together.
        longest: the longest wait in seconds; a server that asks for a longer one is given up.
        timeout: seconds without a byte after which an attempt has failed.
    """

    attempts: int = 6
    first: float = 0.5
    longest: float = 60.0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not all(
            math.isfinite(value) and value > 0 for value in (self.first, self.longest, self.timeout)
        ):
            raise InvalidConfig("attempts, waits and time-outs are positive")

    def wait(self, digest: str, attempt: int, headers: Mapping[str, str]) -> float:
        """Return the seconds to wait after attempt number ``attempt``, from 1, of the request named ``digest``."""
        asked = retry_after(headers)
        backoff = min(self.first * 2.0 ** (attempt - 1), self.longest)
        drawn = backoff * (0.5 + 0.5 * float(derive(0, "backoff", digest, attempt).numpy().random()))
        return drawn if asked is None else max(asked, drawn)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that a server asks to wait (``Retry-After``, in seconds or as a date), or None."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return _until(text, now or datetime.now(UTC))
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _until(text: str, now: datetime) -> float | None:
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max((when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds(), 0.0)
