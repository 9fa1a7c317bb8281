"""The limits within which a gateway works."""

from __future__ import annotations

from dataclasses import dataclass, fields

from holdfast.errors import InvalidConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of a pool; all positive but ``prepare``.

    Args:
        queue: requests that may wait; one more is refused at once.
        timeout: seconds from a request's arrival to its answer or its error.
        worker_timeout: seconds that a worker may take for one answer; shorter than ``timeout``, or a silent worker
            leaves no time to ask another.
        start_timeout: seconds that a spawned worker may take until it listens.
        attempts: workers that one request is tried on.
        lies: lies in a row after which a place that starts its workers itself starts no more of them.
        backoff: longest pause, in seconds, before a worker that could not be reached is tried again.
        batch: inputs of waiting requests that are computed together; 1 computes each request for itself. Answers stay
            the same bits where the model computes each input for itself, as exported graphs do.
        prepare: inputs that an idle session keeps masks ready for.

    Raises:
        InvalidConfig: a limit that is none.
    """

    queue: int = 64
    timeout: float = 30.0
    worker_timeout: float = 10.0
    start_timeout: float = 60.0
    attempts: int = 3
    lies: int = 3
    backoff: float = 5.0
    batch: int = 1
    prepare: int = 0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0 and not (item.name == "prepare" and value == 0):
                raise InvalidConfig(f"{item.name} is {value}", hint="limits of a gateway are positive")
        if self.worker_timeout > self.timeout:
            raise InvalidConfig(
                f"a worker may take {self.worker_timeout:g} seconds, a request only {self.timeout:g}",
                hint="make the worker's time-out the shorter one",
            )
