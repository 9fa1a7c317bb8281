"""What belongs to the process that made it: a fork copies secrets and numbers, and both copies would use them.

A process is known by its number and by a token. The number alone does not do: in a namespace of its own a forked
process may have the number of its parent. The token is drawn anew in every process that the interpreter forks; where
the kernel can (Linux), it lies in a page that is empty after any fork, also one that the interpreter knows nothing of.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy

_TOKEN = 16
_WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux
_PAGE = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
if sys.platform == "linux":
    with suppress(OSError):  # a kernel before 4.14
        _PAGE.madvise(_WIPE_ON_FORK)


def _draw() -> None:
    _PAGE[:_TOKEN] = Entropy().bytes(_TOKEN)


_draw()
os.register_at_fork(after_in_child=_draw)


class OwnProcess:
    """Remembers the process that it was made in.

    Args:
        what: belongs to that process, for the message.
    """

    def __init__(self, what: str) -> None:
        if not any(_PAGE[:_TOKEN]):  # forked behind the interpreter's back
            _draw()
        self._what, self._process, self._token = what, os.getpid(), _PAGE[:_TOKEN]

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._process and _PAGE[:_TOKEN] == self._token

    def finalize(self, thing: object, call: Callable[..., object], *args: object) -> weakref.finalize[..., Any]:
        """Return what calls ``call`` when ``thing`` goes, or when asked to; never in a fork, which has a copy of both.

        Workers, machines and folders belong to the parent: a fork that ends must not take them along.
        """
        return weakref.finalize(thing, self._call, call, args)

    def _call(self, call: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.here:
            call(*args)

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
