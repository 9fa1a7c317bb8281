"""What belongs to the process that made it: a fork copies secrets and numbers, and both copies would use them."""

from __future__ import annotations

import os

from holdfast.errors import InvalidConfig


class OwnProcess:
    """Remembers the process that it was made in.

    Args:
        what: belongs to that process, for the message.
    """

    def __init__(self, what: str) -> None:
        self._what, self._process = what, os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process

    def require(self) -> None:
        """Refuse to go on in another process.

        Raises:
            InvalidConfig: this one was forked off since.
        """
        if not self.here:
            raise InvalidConfig(
                f"{self._what} of process {self._process} was copied into process {os.getpid()} by a fork",
                hint="two processes would use the same masks twice: make it after the fork, in each of them",
            )
