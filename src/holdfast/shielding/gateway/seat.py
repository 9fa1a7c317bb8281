"""One place of a pool: a thread, its session, and what becomes of a worker that fails."""

from __future__ import annotations

import time
from threading import Thread
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from holdfast.errors import ArtifactError, HoldfastError, IntegrityError, StorageError, Unavailable
from holdfast.shielding.gateway.jobs import Job
from holdfast.shielding.gateway.refusal import Refused
from holdfast.shielding.gateway.sources import Opened, Source

if TYPE_CHECKING:
    from holdfast.shielding.gateway.pool import Pool

State = Literal["starting", "ready", "busy", "quarantined", "stopped"]
USABLE: frozenset[State] = frozenset(("starting", "ready", "busy"))
_IDLE = 0.2  # seconds between looks at an idle worker
_STEP = 8  # inputs for which masks are drawn between two looks at who waits
_OURS = (HoldfastError, OSError, RuntimeError, ValueError, LookupError, MemoryError)  # no worker's fault
_DOUBLINGS = 16
_FIRST_PAUSE = 0.1  # seconds before a worker that could not be reached is tried again; doubles each time


class Seat(Thread):
    """Opens session after session and answers requests with them until the pool stops or the source is quarantined.

    Args:
        pool: where requests come from.
        source: where sessions come from.

    Attributes:
        state: what it is doing.
    """

    def __init__(self, pool: Pool, source: Source) -> None:
        super().__init__(daemon=True, name=f"seat {source.name}")
        self.state: State = "starting"
        self._pool, self._source, self._failed = pool, source, 0
        self._opened: Opened | None = None
        self._ahead = pool.settings.prepare

    def run(self) -> None:
        """Work until there is nothing left to do here."""
        try:
            while self._goes_on():
                self.state = "starting"
                if not self._turn():
                    pause = _FIRST_PAUSE * 2 ** min(self._failed, _DOUBLINGS)
                    self._pool.stopping.wait(min(pause, self._pool.settings.backoff))
        finally:
            self.state = "quarantined" if self._source.quarantined else "stopped"
            self._pool.left()

    def _turn(self) -> bool:
        """Have one session; return whether to open the next one without a pause. Nothing of it is left then."""
        opened = self._open()
        return opened is not None and self._serve(opened)

    def abandon(self) -> None:
        """End the worker of a seat that did not end in time."""
        if self.is_alive() and self._opened is not None and self._opened.process is not None:
            self._opened.process.kill()

    def _goes_on(self) -> bool:
        return not self._source.quarantined and not self._pool.stopping.is_set()

    def _open(self) -> Opened | None:
        try:
            opened = self._source.open()
        except IntegrityError as error:
            self._lied(error, None)
        except (HoldfastError, OSError) as error:
            if self._goes_on():  # else it was ended while it started, with everything else
                self._failed += 1
                self._record("unreachable", "worker-unreachable", error, None)
        else:
            self._pool.audit("worker-ready", worker=self._source.name, pid=opened.pid)
            return opened
        return None

    def _serve(self, opened: Opened) -> bool:
        """Answer requests while the session is good; return whether to open the next one without a pause."""
        self._opened = opened
        try:
            with opened.session:
                good = True
                while good and self._goes_on():
                    self.state = "ready"
                    good = self._step(opened)
        except _OURS as error:
            self._failed += 1
            self._pool.audit("session-broken", worker=self._source.name, error=type(error).__name__)
            return False
        finally:
            self._opened = None
        return True

    def _step(self, opened: Opened) -> bool:
        """Do what comes next; return whether the session is still good. Nothing of a request is left then."""
        jobs = self._pool.waiting.take(_IDLE, self._pool.settings.batch)
        return self._work(opened, jobs) if jobs else self._idle(opened)

    def _idle(self, opened: Opened) -> bool:
        """Use the time; return whether the session is still good."""
        if not opened.alive:
            self._record("lost", "worker-lost", Unavailable("the worker ended while idle"), opened)
            return False
        self._prepare(opened)
        return True

    def _prepare(self, opened: Opened) -> None:
        """Draw masks ahead of time in small steps, as long as nobody waits for this seat and there is room for them."""
        for ahead in range(_STEP, self._ahead + _STEP, _STEP):
            if len(self._pool.waiting) or not self._goes_on():
                return
            try:
                opened.session.prepare(min(ahead, self._ahead))
            except StorageError as error:
                self._ahead = ahead - _STEP  # what fitted stays; asking again and again would cost as much each time
                self._pool.audit("masks-limited", worker=self._source.name, inputs=self._ahead, error=str(error))
                return

    def _work(self, opened: Opened, jobs: list[Job]) -> bool:
        """Bring requests further; return whether the session is still good."""
        if not (jobs := [job for job in jobs if _due(job)]):
            return True
        self.state, start = "busy", time.monotonic()
        for job in jobs:
            job.attempts += 1
        try:
            outputs = _computed(opened, jobs)
        except IntegrityError as error:
            self._lied(error, opened)
            self._again(jobs)
            return False
        except (Unavailable, ArtifactError) as error:
            self._record("lost", "worker-lost", error, opened)
            self._again(jobs)
            return False
        except _OURS as error:
            return self._broken(jobs, error)
        except BaseException as error:
            self._broken(jobs, error)
            raise
        self._failed = 0
        self._source.answered()
        self._pool.took((time.monotonic() - start) / len(jobs))
        for job, part in zip(jobs, outputs, strict=True):
            job.answer(part)
        return True

    def _again(self, jobs: list[Job]) -> None:
        for job in reversed(jobs):  # each goes to the head of the queue, so the last one first
            self._pool.again(job)

    def _lied(self, error: IntegrityError, opened: Opened | None) -> None:
        self._source.lied()
        self._failed += 1
        self._record("lied", "worker-quarantined", error, opened)

    def _broken(self, jobs: list[Job], error: BaseException) -> bool:
        """The trusted world itself failed; whatever its session is like now, it ends.

        One request of several may be at fault, so each is tried alone.
        """
        kind = type(error).__name__
        self._pool.audit("request-broken", worker=self._source.name, error=kind, requests=len(jobs))
        if len(jobs) > 1:
            self._again(jobs)
            return False
        refused = Refused(f"the model could not compute this: {kind}", hint="see the audit log", outcome="broken")
        jobs[0].refuse(refused)
        return False

    def _record(self, reason: str, event: str, error: Exception, opened: Opened | None) -> None:
        self._pool.metrics.failures.add(reason)
        pid = None if opened is None else opened.pid
        for_good = "yes" if self._source.quarantined else "no"
        self._pool.audit(event, worker=self._source.name, pid=pid, error=str(error), source_quarantined=for_good)


def _due(job: Job) -> bool:
    """Say whether a request still wants an answer, and tell one that is too late so."""
    if not job.over and job.left <= 0:
        job.expire()
    return not job.over


def _computed(opened: Opened, jobs: list[Job]) -> list[Tensor]:
    """Return the outputs of each request, computed together and kept apart."""
    if len(jobs) == 1:
        return [opened.session(jobs[0].inputs)]
    sizes = [len(job.inputs) for job in jobs]
    outputs: Tensor = opened.session(torch.cat([job.inputs for job in jobs]))
    if len(outputs) != sum(sizes):
        raise ValueError("the model does not answer each input for itself")
    return [part.clone() for part in outputs.split(sizes)]
