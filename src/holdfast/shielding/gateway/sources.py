"""Where a pool's workers come from: processes of our own, or addresses at which somebody else's listen."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from holdfast.errors import InvalidConfig, WorkerUnreachable
from holdfast.seeds import Entropy
from holdfast.shielding.checking import Freivalds
from holdfast.shielding.gateway.settings import Settings
from holdfast.shielding.graph.separate import require_apart
from holdfast.shielding.offloaded import Placements
from holdfast.shielding.opening import shield
from holdfast.shielding.sealing import Budget
from holdfast.shielding.session import Session
from holdfast.shielding.transport import MutualTls, SpawnedWorker
from holdfast.shielding.transport.remote import grpc_module

_POLL = 0.02  # seconds between looks at a worker that starts


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, and its worker's process where it is ours."""

    session: Session
    process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """False once our worker has ended; what others run shows only in its answers."""
        return self.process is None or self.process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of our worker."""
        return None if self.process is None else self.process.pid


class Source(Protocol):
    """Gives one session after another.

    Attributes:
        name: what audit lines call it.
        quarantined: whether its workers are not to be asked again.
    """

    name: str
    quarantined: bool

    def open(self) -> Opened:
        """Return a session with a worker that never lied to us.

        Raises:
            WorkerUnreachable, UnsupportedVersion: nobody, or another version, answers.
            IntegrityError: somebody else answers than should.
        """
        ...

    def lied(self) -> None:
        """Take note that the last session's worker lied."""
        ...

    def answered(self) -> None:
        """Take note that the last session's worker gave a true answer."""
        ...


class Spawned:
    """Starts a process for each session, so a liar is ended and a fresh one takes its place, a few times.

    Args:
        name: what audit lines call it.
        model: the int8 model.
        settings: limits.
        placements: where each layer runs.
        options: extra arguments of the worker.
        memory: most bytes of masks in each session; None is no limit.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        settings: Settings,
        placements: Placements | None,
        options: Sequence[str],
        memory: int | None = None,
    ) -> None:
        self.name, self.quarantined, self._lies = name, False, 0
        self._model, self._settings, self._placements, self._options = model, settings, placements, tuple(options)
        self._memory = memory

    def open(self) -> Opened:
        """Start a worker and a session with it; a failed start leaves no process."""
        owner = SpawnedWorker(self._options)
        try:
            self._wait(owner)
            session = Session(
                self._model,
                owner.connect(self._settings.worker_timeout),
                check=Freivalds(),
                placements=self._placements,
                entropy=Entropy(),
                budget=Budget(self._memory),
                owner=owner,
            )
        except BaseException:
            owner.close()
            raise
        return Opened(session, owner.process)

    def _wait(self, owner: SpawnedWorker) -> None:
        """Allow a starting worker more time than an answering one."""
        deadline = time.monotonic() + self._settings.start_timeout
        while not owner.path.exists() and owner.process.poll() is None:
            if time.monotonic() > deadline:
                raise WorkerUnreachable(f"the worker did not listen within {self._settings.start_timeout:g} seconds")
            time.sleep(_POLL)

    def lied(self) -> None:
        """Count a lie; too many in a row are not the process's fault but the machine's."""
        self._lies += 1
        self.quarantined = self._lies >= self._settings.lies

    def answered(self) -> None:
        """Begin counting anew."""
        self._lies = 0


class Addressed:
    """Opens sessions with whoever listens at an address; one lie, and it is never asked again.

    Args:
        address: ``unix:PATH``, ``shared:PATH`` or ``grpc:HOST:PORT``; also its name.
        model: the int8 model.
        settings: limits.
        placements: where each layer runs.
        tls: for ``grpc:``.
        memory: most bytes of masks in each session; None is no limit.
    """

    def __init__(
        self,
        address: str,
        model: nn.Module,
        settings: Settings,
        placements: Placements | None,
        tls: MutualTls | None,
        memory: int | None = None,
    ) -> None:
        self.name, self.quarantined = address, False
        self._model, self._settings, self._placements = model, settings, placements
        self._tls, self._memory = tls if address.startswith("grpc:") else None, memory

    def open(self) -> Opened:
        """Open a session there."""
        limit = self._settings.worker_timeout
        session = shield(
            self._model, self.name, placements=self._placements, timeout=limit, tls=self._tls, memory=self._memory
        )
        return Opened(session)

    def lied(self) -> None:
        """Never ask there again."""
        self.quarantined = True

    def answered(self) -> None:
        """Nothing changes."""


def sources(
    model: nn.Module,
    workers: Sequence[str] = ("spawn",),
    *,
    sessions: int = 2,
    settings: Settings | None = None,
    placements: Placements | None = None,
    tls: MutualTls | None = None,
    options: Sequence[str] = (),
    memory: int | None = None,
) -> list[Source]:
    """Return one source for each session of a pool; sessions at one address share a source, and its quarantine.

    Args:
        model: the int8 model.
        workers: each ``"spawn"``, ``"unix:PATH"``, ``"shared:PATH"`` or ``"grpc:HOST:PORT"``.
        sessions: with each worker that is spawned or reached over gRPC; others answer one session at a time.
        settings: limits.
        placements: where each layer runs, as for :func:`~holdfast.shielding.shield`.
        tls: for workers over gRPC.
        options: extra arguments of spawned workers.
        memory: most bytes of masks in each session, as for :func:`~holdfast.shielding.shield`.

    Raises:
        InvalidConfig: no worker, one that is named twice, an address of another kind, gRPC without TLS, or a model that
            does not keep the samples of its batches apart.
        MissingExtra: gRPC without grpcio.
    """
    settings = Settings() if settings is None else settings
    if not workers or len(set(workers)) != len(workers) or sessions < 1:
        raise InvalidConfig("a gateway needs workers, each named once", hint="--worker spawn --workers 2")
    require_apart(model, settings.batch)
    result: list[Source] = []
    for worker in workers:
        _require_address(worker, tls)
        if worker == "spawn":
            names = [f"spawn-{number}" for number in range(1, sessions + 1)]
            result += [Spawned(name, model, settings, placements, options, memory) for name in names]
        else:
            shared = Addressed(worker, model, settings, placements, tls, memory)
            result += [shared] * (sessions if worker.startswith("grpc:") else 1)
    return result


def _require_address(worker: str, tls: MutualTls | None) -> None:
    kind, _, place = worker.partition(":")
    if worker != "spawn" and (kind not in ("unix", "shared", "grpc") or not place):
        raise InvalidConfig(
            f"a worker is 'spawn' or 'unix:PATH', not {worker!r}", hint="or shared:PATH, or grpc:HOST:PORT"
        )
    if kind == "grpc":
        grpc_module()
        if tls is None:
            raise InvalidConfig("a worker on another machine needs mutual TLS", hint="--tls-ca, --tls-cert, --tls-key")
        tls.read()
