"""A world: a place where trusted code runs, that can say what runs there and keep what it is told.

The order is the guarantee. ``measure`` what is to run, ``start`` the place with that on record, ``quote`` for whoever
asks, ``provision`` secrets once he is satisfied, ``run``. A world that was not measured and started gives no quote,
takes no secret and runs nothing.
"""

from __future__ import annotations

import re
import resource
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.shielding.attestation import Evidence
from holdfast.shielding.worlds.measuring import Measurement

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
RESERVED = frozenset({"config", "guest", "inside", "interpreter", "standard-library", "system"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a world runs: one Python module, from files that are measured.

    Attributes:
        module: run as ``python -m`` does.
        arguments: its command line. They are measured: the host chooses none of them later.
        measured: files and folders by name, copied as they are measured; inside they are ``/world/NAME``.
        libraries: folders by name that are too large to copy, measured in place; nobody but root may write to them.
        path: names of those among both that modules are imported from, in order.
        shared: a folder that inside is ``/shared``, writable for both sides, for sockets. What comes from there is
            the other side's word.
        limits: resource limits by the name that ``setrlimit`` has for them, such as ``{"NOFILE": 256}``.

    Raises:
        InvalidConfig: a name that is none, is there twice, or is missing.
    """

    module: str
    arguments: tuple[str, ...] = ()
    measured: Mapping[str, Path] = field(default_factory=dict)
    libraries: Mapping[str, Path] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    shared: Path | None = None
    limits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.measured, *self.libraries]
        if not _MODULE.fullmatch(self.module):
            raise InvalidConfig(f"{self.module!r} is no module", hint="holdfast.services.gateway, for example")
        if bad := [name for name in names if not _NAME.fullmatch(name) or name in RESERVED]:
            raise InvalidConfig(
                f"{bad[0]!r} is no name for what is measured", hint="lower-case letters, digits, dashes"
            )
        if len(set(names)) < len(names) or not set(self.path) <= set(names):
            raise InvalidConfig("a name is there twice, or is on the path and not among what is measured")
        if unknown := [name for name in self.limits if not hasattr(resource, f"RLIMIT_{name}")]:
            raise InvalidConfig(
                f"there is no resource limit called {unknown[0]!r}", hint="NOFILE, AS, NPROC, for example"
            )
        if not self.path:
            raise InvalidConfig("a world needs code", hint="measured={'code': Path(...)}, path=('code',)")


class World(Protocol):
    """Starts, measures, quotes, provisions, runs and seals."""

    def measure(self) -> Measurement:
        """Measure what is to run, once; later calls return the same."""
        ...

    def start(self) -> None:
        """Bring the world up with its measurement on record."""
        ...

    def quote(self, nonce: bytes, binding: bytes = b"") -> Evidence:
        """Return evidence of the measurement for ``nonce``, bound to a session where ``binding`` names one."""
        ...

    def provision(self, secrets: Mapping[str, bytes]) -> None:
        """Take secrets for the code inside, which :func:`~holdfast.shielding.worlds.provisioned` reads."""
        ...

    def run(self) -> subprocess.Popen[bytes]:
        """Run the module; its standard streams are pipes."""
        ...

    def seal(self, name: str, data: bytes) -> bytes:
        """Return ``data`` in a form that only this world opens, and only the latest of that name."""
        ...

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Return what :meth:`seal` was given last under ``name``."""
        ...

    def close(self) -> None:
        """End everything that runs."""
        ...


worlds: Registry[World] = Registry("world", "holdfast.worlds")
