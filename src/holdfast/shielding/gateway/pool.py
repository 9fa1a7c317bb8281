"""Sessions over workers that may crash, hang or lie: a request is answered truly, tried elsewhere, or refused.

Each seat is a thread with one session. A worker that breaks down is replaced; one that lies is quarantined, for every
seat. Nothing is ever computed here instead: without a worker to trust, requests are refused.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from threading import Event, Lock

from torch import Tensor

from holdfast.shielding.gateway.audit import Audit
from holdfast.shielding.gateway.jobs import Job, Waiting
from holdfast.shielding.gateway.metrics import Metrics
from holdfast.shielding.gateway.refusal import Outcome, Refused
from holdfast.shielding.gateway.seat import USABLE, Seat, State
from holdfast.shielding.gateway.settings import Settings
from holdfast.shielding.gateway.sources import Source

_LONGEST_RETRY = 60  # seconds
_MEMORY = 0.8  # share of the past in the running mean of seconds per request


class Pool:
    """Gives requests to sessions.

    Args:
        sources: one for each seat.
        settings: limits.
        metrics: counts what happens.
        audit: writes down what happens to workers.
    """

    def __init__(self, sources: Sequence[Source], settings: Settings, metrics: Metrics, audit: Audit) -> None:
        self.settings, self.metrics, self.audit = settings, metrics, audit
        self.waiting, self.stopping = Waiting(settings.queue), Event()
        self._lock, self._draining, self._pace = Lock(), False, 0.0
        self._jobs: set[Job] = set()  # accepted and not ended
        self._seats = [Seat(self, source) for source in sources]

    def start(self) -> None:
        """Start all seats; sessions open in the background."""
        for seat in self._seats:
            seat.start()

    @property
    def outstanding(self) -> int:
        """Requests accepted and not ended."""
        return len(self._jobs)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused for good."""
        return self._draining

    def states(self) -> dict[State, int]:
        """Return how many seats are in which state."""
        counts = Counter(seat.state for seat in self._seats)
        return {state: counts[state] for state in ("starting", "ready", "busy", "quarantined", "stopped")}

    def submit(self, inputs: Tensor) -> Job:
        """Accept a request.

        Raises:
            Refused: draining, no worker left, or too many wait; counted already.
        """
        self.require_room()
        job = Job(inputs, self.settings.timeout, self._settled)
        with self._lock:
            self._jobs.add(job)
        if not self.waiting.put(job):
            job.refuse(self._overloaded())
        if self._hopeless():  # the last seat may have left between the two lines
            self.give_up()
        return job

    def require_room(self) -> None:
        """Refuse now what :meth:`submit` would refuse, before its inputs are read.

        Raises:
            Refused: as there; counted already.
        """
        refused = None
        if self._draining:
            refused = Refused("the gateway is shutting down", hint="ask another one", outcome="draining", retry_after=1)
        elif self._hopeless():
            refused = _no_worker()
        elif self.waiting.full:
            refused = self._overloaded()
        if refused is not None:
            self.metrics.requests.add(refused.outcome)
            raise refused

    def again(self, job: Job) -> None:
        """Give a request whose worker failed to another one, or end it."""
        if job.over:
            return
        if job.attempts >= self.settings.attempts:
            job.refuse(Refused(f"{job.attempts} workers failed, one after another", hint="try again", outcome="failed"))
        else:
            self.metrics.retries.add()
            self.waiting.put_back(job)

    def took(self, seconds: float) -> None:
        """Learn how long a request took a worker."""
        self._pace = seconds if not self._pace else _MEMORY * self._pace + (1 - _MEMORY) * seconds

    def left(self) -> None:
        """Take note that a seat has ended; without any, nobody waits in vain."""
        if self._hopeless():
            self.give_up()

    def give_up(self) -> None:
        """Refuse everything that waits."""
        for job in self.waiting.empty():
            job.refuse(_no_worker())

    def drain(self) -> None:
        """Refuse new requests from now on; what was accepted is still answered."""
        self._draining = True

    def stop(self) -> None:
        """Refuse what was accepted and has not ended, and have all seats end."""
        self.drain()
        self.stopping.set()
        with self._lock:
            jobs = list(self._jobs)
        self.waiting.empty()
        for job in jobs:
            job.refuse(Refused("the gateway shut down first", hint="ask another one", outcome="draining"))

    def close(self, patience: float = 5.0) -> None:
        """Refuse what is left, end all sessions, and wait ``patience`` seconds for seats to end."""
        self.stop()
        deadline = time.monotonic() + patience
        for seat in self._seats:
            if seat.ident is not None:
                seat.join(max(deadline - time.monotonic(), 0.0))
                seat.abandon()

    def _overloaded(self) -> Refused:
        seconds = self._pace * (len(self.waiting) + 1) / max(self._usable(), 1)
        pause = min(max(math.ceil(seconds), 1), _LONGEST_RETRY)
        return Refused(
            f"{self.settings.queue} requests are waiting already",
            hint=f"try again in {pause} s",
            outcome="overloaded",
            retry_after=pause,
        )

    def _usable(self) -> int:
        return sum(seat.state in USABLE for seat in self._seats)

    def _hopeless(self) -> bool:
        return self._usable() == 0

    def _settled(self, job: Job, outcome: Outcome) -> None:
        with self._lock:
            self._jobs.discard(job)
        self.metrics.requests.add(outcome)
        if outcome == "answered":
            self.metrics.samples.add(count=len(job.inputs))
            self.metrics.seconds.add(time.monotonic() - job.arrived)


def _no_worker() -> Refused:
    return Refused(
        "there is no worker left to trust",
        hint="all of them lied and are quarantined; see the audit log, and start the gateway with others",
        outcome="no-worker",
    )
