"""Secrets that a world was given, read by the code inside it.

They lie in memory from ``memfd_secret`` (Linux 5.14): it is in no other process's page tables, nor in the kernel's
own map of memory, so that a bug of the kernel which reads memory finds nothing there. Swapping never writes it out.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

from holdfast.errors import MissingDevice, RecordMissing

VARIABLE = "HOLDFAST_PROVISIONED"


class Secret:
    """One secret in its protected memory; use :meth:`view` where it is needed and keep no copy."""

    def __init__(self, handle: int, size: int) -> None:
        self._area, self._size = mmap.mmap(handle, max(size, 1)), size

    def view(self) -> memoryview:
        """Return the bytes in place."""
        return memoryview(self._area)[: self._size]

    def wipe(self) -> None:
        """Overwrite the secret; nobody can use it afterwards, in this process or one it was handed to."""
        self._area[: self._size] = bytes(self._size)


def provisioned(name: str) -> Secret:
    """Return the secret called ``name`` that this world was given.

    Raises:
        RecordMissing: it was given none of that name.
        MissingDevice: this process runs in no world.
    """
    if VARIABLE not in os.environ:
        raise MissingDevice("this process runs in no world that was given secrets", hint="World.provision, then run")
    for entry in os.environ[VARIABLE].split(","):
        known, _, place = entry.partition(":")
        handle, _, size = place.partition(":")
        if known == name:
            with suppress(ValueError):
                return Secret(int(handle), int(size))
    raise RecordMissing(f"this world was given no secret called {name!r}")
