"""How a request can end, and what that is called over HTTP and over gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.errors import Unavailable

Outcome = Literal[
    "answered",
    "invalid",
    "too-large",
    "slow",
    "gone",
    "overloaded",
    "draining",
    "no-worker",
    "failed",
    "timed-out",
    "broken",
]


@dataclass(frozen=True, slots=True)
class Code:
    """What an outcome is called on the wire.

    Attributes:
        http: status.
        grpc: name of a status code.
    """

    http: int
    grpc: str


CODES: dict[Outcome, Code] = {
    "answered": Code(200, "OK"),
    "invalid": Code(400, "INVALID_ARGUMENT"),
    "too-large": Code(413, "RESOURCE_EXHAUSTED"),
    "slow": Code(408, "DEADLINE_EXCEEDED"),  # the request itself did not arrive in time
    "gone": Code(499, "CANCELLED"),  # the client left before its request was complete; nobody reads the status
    "overloaded": Code(429, "RESOURCE_EXHAUSTED"),
    "draining": Code(503, "UNAVAILABLE"),
    "no-worker": Code(503, "UNAVAILABLE"),
    "failed": Code(502, "UNAVAILABLE"),  # every attempt met a worker that lied or broke down
    "timed-out": Code(504, "DEADLINE_EXCEEDED"),
    "broken": Code(500, "INTERNAL"),  # the trusted world itself could not compute this
}


class Refused(Unavailable):
    """A request gets this error instead of an answer.

    Args:
        outcome: which of the ways to end this is.
        retry_after: whole seconds after which trying again makes sense; None if it does not.
    """

    def __init__(
        self, message: str, *, hint: str = "", outcome: Outcome = "failed", retry_after: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.outcome, self.retry_after = outcome, retry_after

    @property
    def code(self) -> Code:
        """What it is called on the wire."""
        return CODES[self.outcome]

    def to_json(self) -> dict[str, object]:
        """Return what a client is told."""
        told: dict[str, object] = {"error": str(self), "hint": self.hint, "kind": self.outcome}
        return told if self.retry_after is None else told | {"retry_after": self.retry_after}
