"""What happened to the workers, one line of JSON for each event; never anything of a request's data."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock

_MOST = 300  # characters of one field: workers may put their own words into an error


class Audit:
    """Writes events.

    Args:
        write: takes one line with its line feed; called under a lock.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._lock = write, Lock()

    def __call__(self, event: str, **facts: str | int | None) -> None:
        """Write one event with the current time; text is cut to 300 characters and escaped to ASCII."""
        told = {key: value[:_MOST] if isinstance(value, str) else value for key, value in facts.items()}
        line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event} | told
        with self._lock:
            self._write(json.dumps(line) + "\n")
