"""Editions: what every signed list that is issued again and again must say, so that no older one passes for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from holdfast.errors import InvalidConfig, PolicyError, UnreadableArtifact
from holdfast.signing.times import now, read_time, write_time

FIELDS = ("version", "issued", "expires")
CLOCK_SKEW = timedelta(minutes=5)  # an issuer's clock may be so far ahead of ours


@dataclass(frozen=True, slots=True)
class Edition:
    """One issue of a list: ``version`` counts up from 1, and nobody may rely on it after ``expires``."""

    version: int
    issued: datetime
    expires: datetime

    def __post_init__(self) -> None:
        if self.version < 1:
            raise InvalidConfig(f"the first version of a list is 1, not {self.version}")
        if self.expires <= self.issued:
            raise InvalidConfig(f"a list issued {self.issued} cannot expire {self.expires}")

    def to_json(self) -> dict[str, Any]:
        """Return the three fields as they stand in a predicate."""
        return {"version": self.version, "issued": write_time(self.issued), "expires": write_time(self.expires)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], what: str) -> Edition:
        """Read the three fields; raise :class:`UnreadableArtifact` when one is missing or makes no sense."""
        version = value.get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise UnreadableArtifact(f"the {what} has no version number")
        issued, expires = (read_time(value.get(name), f"{name} of the {what}") for name in ("issued", "expires"))
        try:
            return cls(version, issued, expires)
        except InvalidConfig as error:
            raise UnreadableArtifact(f"the {what} contradicts itself: {error}") from error

    def require_current(self, at: datetime | None, what: str, *, maximum_age: timedelta | None = None) -> None:
        """Return if the edition may be relied on at ``at`` (now by default).

        Raises:
            PolicyError: it has expired, is older than ``maximum_age``, or is issued in the future.
        """
        time = at or now()
        if time >= self.expires:
            raise PolicyError(f"the {what} expired {write_time(self.expires)}", hint="get the current one")
        if self.issued > time + CLOCK_SKEW:
            raise PolicyError(f"the {what} is issued in the future, {write_time(self.issued)}", hint="check the clock")
        if maximum_age is not None and time - self.issued > maximum_age:
            raise PolicyError(f"the {what} is of {write_time(self.issued)}, older than allowed")
