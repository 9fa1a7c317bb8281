"""What replaced workers, refused requests and closed sessions leave in a gateway: nothing, without any collection.

Python frees what nobody refers to at once, but cycles only when its collector runs over everything, which in a process
of many objects is hardly ever. So the collector is off here: whatever is still there would have stayed.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy
from holdfast.services.worker import Worker
from holdfast.shielding import Freivalds, Session
from holdfast.shielding.gateway import Opened, Refused, Settings, sources
from holdfast.shielding.transport import Kind
from holdfast.shielding.transport.shared import accept, offer
from tests.unit.shielding.gateway.places import MODEL, Gate, Threaded, dying, gateway, lying, silent, until
from tests.unit.shielding.nets import honest, images, session_with


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Watched(Threaded):
    """Remembers its sessions without keeping them."""

    def open(self) -> Opened:
        opened = super().open()
        self.sessions = [*getattr(self, "sessions", []), weakref.ref(opened.session)]
        return opened


def test_a_closed_session_is_gone_with_its_model_and_its_secrets() -> None:
    session = session_with(MODEL)
    session(images(2))
    secrets = [weakref.ref(found) for item in session._layers.values() for found in (item.verifier, item.store)]
    secrets += [weakref.ref(session), weakref.ref(session.model)]
    session.close()
    del session
    assert [found() for found in secrets] == [None] * len(secrets)


def test_the_model_of_a_session_that_is_gone_says_so() -> None:
    model = session_with(MODEL).model
    with pytest.raises(InvalidConfig, match="the session is gone"):
        model(images(1))


def test_sessions_whose_workers_died_lied_or_fell_silent_are_gone() -> None:
    source = Watched("a", dying, lying, silent, dying, lying, honest, timeout=0.3)
    with gateway(source, attempts=100, timeout=30.0, worker_timeout=1.0) as gate:
        assert torch.equal(gate.submit(images(2)).wait(), MODEL(images(2)))
        assert [found() is not None for found in source.sessions] == [False] * 5 + [True]


def test_what_a_refused_request_held_is_gone() -> None:
    inputs = [images(1) for _ in range(3)]
    held, gate = [weakref.ref(item) for item in inputs], Gate()
    with gateway(Threaded("a", gate), queue=1, timeout=0.5, worker_timeout=0.4) as made:
        for _ in range(3):
            with pytest.raises(Refused):
                made.submit(inputs.pop()).wait()
        gate.open.set()
        until(lambda: not any(found() is not None for found in held))


class Rings(Threaded):
    """Its workers are threads behind shared memory; all but the last die when they are asked to work."""

    def __init__(self, deaths: int) -> None:
        super().__init__("rings")
        self._deaths = deaths

    def open(self) -> Opened:
        self.opened += 1
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=_serve, args=(far, self.opened <= self._deaths), daemon=True).start()
        channel = offer(near, 2**20, timeout=20, peer="the worker")
        return Opened(Session(MODEL, channel, check=Freivalds(), entropy=Entropy()))


def _serve(stream: socket.socket, dies: bool) -> None:
    worker, channel = Worker(), accept(stream, timeout=None, peer="the session")
    while (question := channel.receive()).kind is not Kind.BYE and not (dies and question.kind is Kind.RUN):
        channel.send(worker.answer(question))
    channel.close()


def counted() -> dict[str, int]:
    """What this process holds, by kind."""
    return {
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "rings": Path("/proc/self/maps").read_text().count("/memfd:holdfast"),
        "sessions": sum(type(item) is Session for item in gc.get_objects()),
        "tensors": sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()),
        "finalizers": len(weakref.finalize._registry),  # type: ignore[attr-defined]
        "garbage": gc.collect(),
    }


def counted_after(deaths: int) -> dict[str, int]:
    with gateway(Rings(deaths), attempts=deaths + 1, timeout=60.0) as gate:
        assert torch.equal(gate.submit(images(2)).wait(), MODEL(images(2)))
        assert gate.metrics.failures.count("lost") == deaths
        until(lambda: gate.pool.states()["ready"] == 1)
        return counted()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory between processes needs Linux")
def test_twenty_replacements_leave_what_two_do() -> None:
    counted_after(1)
    assert counted_after(20) == counted_after(2)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory between processes needs Linux")
def test_killed_processes_leave_nothing_either() -> None:
    settings = Settings(timeout=120.0, worker_timeout=60.0)
    source = sources(MODEL, sessions=1, settings=settings)[0]
    found = []
    with gateway(source, timeout=120.0, worker_timeout=60.0) as gate:  # type: ignore[arg-type]
        for _ in range(5):
            until(lambda: gate.pool.states()["ready"] == 1, 60)
            assert torch.equal(gate.submit(images(2)).wait(), MODEL(images(2)))
            until(lambda: gate.pool.states()["ready"] == 1)  # the seat has put the request away
            found.append(counted())
            opened = gate.pool._seats[0]._opened
            os.kill(opened.pid, signal.SIGKILL)
            del opened
            until(lambda: gate.pool.states()["ready"] == 0, 60)
    assert found[2:] == found[1:-1]
