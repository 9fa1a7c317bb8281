"""A server's key: from the environment or a file, sent in one header, and kept out of everything else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig

_LEAST = 8  # characters; shorter ones would be struck out of ordinary text
STRUCK = "[key]"


@dataclass(frozen=True, slots=True)
class Secret:
    """A key that does not show in a traceback or a log; empty for a server without one."""

    value: str = ""
    source: str = ""  # where it came from, which may be said

    def __repr__(self) -> str:
        return f"Secret(from {self.source or 'nowhere'})"

    __str__ = __repr__

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries it."""
        return {"authorization": f"Bearer {self.value}"} if self.value else {}

    def strike(self, data: bytes) -> bytes:
        """Return ``data`` without the key: a server may echo what it was sent."""
        return data.replace(self.value.encode(), STRUCK.encode()) if self.value else data

    def strike_text(self, text: str) -> str:
        """Return ``text`` without the key."""
        return text.replace(self.value, STRUCK) if self.value else text


def read_secret(*, env: str | None = None, file: Path | str | None = None) -> Secret:
    """Read a server's key from an environment variable or a file; neither gives the empty one.

    Raises:
        InvalidConfig: both are named, the variable is not set, or the key is not one line of eight visible characters
            or more, as when the key itself was given for the name of the variable.
    """
    if env is not None and file is not None:
        raise InvalidConfig("a key comes from the environment or from a file, not from both")
    if env is not None:
        if env not in os.environ:  # the name is not repeated: people put the key itself there
            raise InvalidConfig(
                "the environment has no variable of the name given for the key",
                hint="--api-key-env takes the name of a variable, not a key",
            )
        return _secret(os.environ[env], f"the environment variable {env}")
    if file is not None:
        data = read_bytes(Path(file), "key file", limit=1 << 14, stream=True)
        return _secret(data.decode("ascii", "replace"), f"the file {file}")
    return Secret()


def _secret(text: str, source: str) -> Secret:
    value = text.strip()
    if len(value) < _LEAST or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidConfig(f"{source} holds no key: one line of {_LEAST} visible characters or more")
    return Secret(value, source)
