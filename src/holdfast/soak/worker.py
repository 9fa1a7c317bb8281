"""The process that computes: batch after batch on one device, each output held against the golden one bit for bit.

It tells its watchdog that it lives by counting iterations in shared memory, at no cost, and what it found by JSON over
a pipe. It writes no file. When it dies or hangs, nobody in it has to notice.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import DigestMismatch, HoldfastError, UnreadableArtifact
from holdfast.models.subject import evaluating
from holdfast.signing.resident.incident import Incident
from holdfast.soak.benches import Bench
from holdfast.soak.devices import Device
from holdfast.soak.golden import Golden
from holdfast.soak.triage import Triage, Verdict, describe_difference

ITERATIONS, BENCH = 0, 1  # places in the shared heartbeat
_EACH = 1.0  # seconds between #IT lines, about
_LEAST = 10  # iterations between them
HOPELESS = 100  # persistent errors in a row, after which one more says nothing new
Disturb = Callable[[Bench, int], None]


@dataclass(frozen=True)
class Orders:
    """What a worker does.

    Attributes:
        limit: iterations over all benches together, or None until it is told to stop.
        audit_every: seconds between looks at all stored tensors, for changes that no output shows.
        disturb: called before each iteration with the bench and the iteration's number: a drill breaks things there.
    """

    device: Device
    benches: tuple[Bench, ...]
    golden: Golden
    limit: int | None = None
    audit_every: float = 60.0
    disturb: Disturb | None = None


@dataclass
class _Course:
    """How far one bench has come."""

    triage: Triage
    done: int = 0
    total: float = 0.0
    kernel: float = 0.0
    every: int = _LEAST
    told: int = -1  # the last iteration that got a line
    stuck: int = 0  # persistent errors in a row

    def message(self, kind: str, **more: Any) -> dict[str, Any]:
        """Return a message about the last iteration."""
        times = {"kernel": self.kernel, "total": self.total}
        return {"kind": kind, "bench": self.triage.bench.name, "iteration": self.done, **times, **more}


@dataclass
class Loop:
    """The golden loop of one worker; ``heart`` holds the iterations so far and the place of the bench at work."""

    orders: Orders
    send: Callable[[dict[str, Any]], None]
    heart: Any  # shared int64 array
    courses: list[_Course] = field(default_factory=list)
    audited: float = 0.0
    audit_seconds: float = 0.0  # of the first audit
    hopeless: str = ""  # the bench that gives nothing but persistent errors

    def prepare(self) -> None:
        """Pin this process, load, and check that memory holds what the golden file was made from."""
        self.orders.device.pin()
        for bench in self.orders.benches:
            self.courses.append(_Course(Triage(bench.on(self.orders.device.torch), self.orders.golden)))
        begun = time.monotonic()
        self.audit()
        self.audit_seconds = time.monotonic() - begun

    def run(self, stop: Event) -> None:
        """Compute until told to stop, until the limit, or until nobody listens any more."""
        parent = os.getppid()
        for number, (place, batch) in enumerate(self._schedule()):
            if stop.is_set() or number == self.orders.limit or os.getppid() != parent or self.hopeless:
                break
            self.heart[BENCH] = place
            self._iteration(self.courses[place], batch)
            self.heart[ITERATIONS] += 1
            if time.monotonic() - self.audited > self.orders.audit_every:
                self.audit()
        self.audit()
        for course in self.courses:
            if course.done and course.told != course.done - 1:
                self._tell(course)

    def _schedule(self) -> Iterator[tuple[int, int]]:
        for turn in count():
            for place, course in enumerate(self.courses):
                yield place, turn % len(course.triage.golden)

    def _iteration(self, course: _Course, batch: int) -> None:
        bench = course.triage.bench
        if self.orders.disturb is not None:
            self.orders.disturb(bench, course.done)
        begun = time.perf_counter()
        output = bench.run(batch)
        if output.is_cuda:
            torch.cuda.synchronize(output.device)
        course.kernel = time.perf_counter() - begun
        course.total += course.kernel
        if course.done == 0:
            course.every = _interval(course.kernel)
        course.done += 1
        if (course.done - 1) % course.every == 0:
            self._tell(course)
        if course.triage.wrong(batch, output):
            self._mismatch(course, batch, output)
        else:
            course.stuck = 0

    def _tell(self, course: _Course) -> None:
        course.told = course.done - 1
        self.send({**course.message("it", every=course.every), "iteration": course.told})

    def _mismatch(self, course: _Course, batch: int, output: Tensor) -> None:
        """Describe it before the triage mends anything, the golden output included."""
        triage = course.triage
        found = describe_difference(triage.bench, batch, triage.golden[batch], output)
        verdict, incidents = triage.judge(batch)
        facts = {"difference": found.to_json(), "verdict": str(verdict), "incidents": _json(incidents)}
        course.stuck = course.stuck + 1 if verdict is Verdict.PERSISTENT else 0
        if course.stuck >= HOPELESS:
            self.hopeless = triage.bench.name
        self.send(course.message("sdc", batch=batch, lines=list(found.lines), errors=found.errors, **facts))

    def audit(self) -> None:
        """Look for changes that no output has shown."""
        for course in self.courses:
            if incidents := course.triage.audit():
                self.send(course.message("latent", incidents=_json(incidents)))
        self.audited = time.monotonic()


def _interval(kernel: float) -> int:
    """Return how many iterations lie between two #IT lines: a power of ten, about a second apart or more."""
    wanted = _EACH / max(kernel, 1e-6)
    return max(_LEAST, 10 ** math.ceil(math.log10(wanted))) if wanted > _LEAST else _LEAST


def _json(incidents: Sequence[Incident]) -> list[dict[str, Any]]:
    return [incident.to_json() for incident in incidents]


def work(pipe: Connection, foreign: Sequence[Connection], stop: Event, heart: Any, orders: Orders) -> None:
    """Run in a forked process until told to stop; an exception is told, and ends the process."""
    for other in foreign:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the watchdog decides what Ctrl-C means

    def send(message: dict[str, Any]) -> None:
        pipe.send_bytes(json.dumps(message).encode())

    loop = Loop(orders, send, heart)
    with suppress(BrokenPipeError), torch.no_grad():  # the watchdog is gone
        try:
            if not _refuses(loop.prepare, HoldfastError, send):
                send({"kind": "ready", "audit": loop.audit_seconds})
                _live(loop, stop, send)
        except Exception as error:
            send({"kind": "crash", "text": f"{type(error).__name__}: {error}"[:400]})
            raise


def _live(loop: Loop, stop: Event, send: Callable[[dict[str, Any]], None]) -> None:
    """Run to the end; a golden file that changed is a refusal, every other error of a pass is a crash."""
    with ExitStack() as modes:
        for bench in loop.orders.benches:
            modes.enter_context(evaluating(bench.module))
        if not _refuses(lambda: loop.run(stop), (DigestMismatch, UnreadableArtifact), send):
            send({"kind": "hopeless", "bench": loop.hopeless} if loop.hopeless else {"kind": "done"})


def _refuses(
    call: Callable[[], None],
    kinds: type[HoldfastError] | tuple[type[HoldfastError], ...],
    send: Callable[[dict[str, Any]], None],
) -> bool:
    """Say whether ``call`` raised one of ``kinds``, and tell the watchdog."""
    try:
        call()
    except kinds as error:
        send({"kind": "refused", "error": type(error).__name__, "message": str(error), "hint": error.hint})
        return True
    return False
