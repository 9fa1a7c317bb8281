"""Sources of sessions whose workers are threads, so that a test can have them lie, die or hang."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

from holdfast.errors import WorkerUnreachable
from holdfast.shielding.gateway import Audit, Gateway, Opened, Settings, Signature
from holdfast.shielding.transport import Frame, Kind
from tests.unit.shielding.nets import Answer, honest, integer_net, session_with

MODEL = integer_net()
SIGNATURE = Signature(shape=(1, 8, 8), most=8)


class Threaded:
    """Opens sessions with workers in threads; the n-th behaves as the n-th answer says, the last one's for ever."""

    def __init__(self, name: str, *answers: Answer, patience: int = 10**9, timeout: float = 5.0) -> None:
        self.name, self.quarantined, self.opened = name, False, 0
        self._answers, self._lies, self._patience, self._timeout = answers or (honest,), 0, patience, timeout

    def open(self) -> Opened:
        answer = self._answers[min(self.opened, len(self._answers) - 1)]
        self.opened += 1
        return Opened(session_with(MODEL, answer, timeout=self._timeout))

    def lied(self) -> None:
        self._lies += 1
        self.quarantined = self._lies >= self._patience

    def answered(self) -> None:
        self._lies = 0


class Nobody(Threaded):
    """Has no worker to offer."""

    def open(self) -> Opened:
        self.opened += 1
        raise WorkerUnreachable("nobody is here")


def lying(question: Frame, answer: Frame, stream: socket.socket) -> Frame:
    if answer.body is not None and question.kind is Kind.RUN:
        answer.body.view(-1)[0] += 1
    return answer


def dying(question: Frame, answer: Frame, stream: socket.socket) -> Frame | None:
    if question.kind is Kind.RUN:
        raise WorkerUnreachable("killed")
    return answer


def silent(question: Frame, answer: Frame, stream: socket.socket) -> Frame | None:
    return None if question.kind is Kind.RUN else answer


class Gate:
    """A worker that answers no work until it is let."""

    def __init__(self) -> None:
        self.asked, self.open = threading.Event(), threading.Event()

    def __call__(self, question: Frame, answer: Frame, stream: socket.socket) -> Frame:
        if question.kind is Kind.RUN:
            self.asked.set()
            self.open.wait(20)
        return answer


def gateway(*sources: Threaded, audit: list[str] | None = None, max_body: int = 4096, **limits: float) -> Gateway:
    settings = Settings(**({"timeout": 10.0, "worker_timeout": 5.0, "backoff": 0.1} | limits))  # type: ignore[arg-type]
    lines: list[str] = [] if audit is None else audit
    return Gateway(sources, SIGNATURE, settings=settings, audit=Audit(lines.append), max_body=max_body)


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
