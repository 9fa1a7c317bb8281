"""Shared memory between worlds: sealed, copied before it is looked at, and served under another user."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from holdfast.errors import IntegrityError, InvalidConfig, UnsupportedVersion, WorkerUnreachable
from holdfast.numerics.bits import bit_equal
from holdfast.seeds import Entropy
from holdfast.services.process import become
from holdfast.services.worker import Worker
from holdfast.shielding import Freivalds, Session, shield
from holdfast.shielding.transport import Frame, Kind, SharedConnection, SpawnedWorker, dial
from holdfast.shielding.transport.shared import Ring, accept, offer
from holdfast.shielding.transport.spawn import credentials
from holdfast.shielding.transport.wire import PREFIX, encode
from tests.unit.shielding.nets import images, integer_net

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd and SEQPACKET sockets are Linux's")
SIZE = 2**20
RESULT = Frame(Kind.RESULT, {"layer": "a"}, torch.arange(6, dtype=torch.int32).view(2, 3))


@pytest.fixture
def ends() -> Iterator[tuple[SharedConnection, SharedConnection, socket.socket]]:
    """The trusted end, the worker's end, and the worker's bare socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours = offer(here, SIZE, timeout=0.5, peer="the worker")
    theirs = accept(there, timeout=0.5, peer="the session")
    yield ours, theirs, there
    ours.close()
    theirs.close()


Ends = tuple[SharedConnection, SharedConnection, socket.socket]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (4, 2, 3, 4), (3, 50_000)])
def test_round_trips_both_ways(ends: Ends, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    ours, theirs, _ = ends
    for turn in range(12):  # often enough to go round the ring
        body = torch.randint(-100, 100, shape, dtype=dtype) + turn
        ours.send(Frame(Kind.RUN, {"turn": turn}, body))
        got = theirs.receive()
        assert (got.kind, got.header["turn"]) == (Kind.RUN, turn)
        assert got.body is not None
        assert torch.equal(got.body, body)
        theirs.send(Frame(Kind.RESULT, {}, got.body.int()))
        assert torch.equal(ours.receive(shape=shape).body, body.int())


def test_the_worker_cannot_write_questions_nor_resize_either_ring() -> None:
    ring, handle = Ring.make("questions", 4096)
    ring.write(memoryview(b"question"))
    copy = os.dup(handle)
    with pytest.raises(PermissionError):
        mmap.mmap(copy, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.write(copy, b"x")
    for size in (1, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(copy, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert mmap.mmap(copy, 4096, mmap.MAP_SHARED, mmap.PROT_READ)[:8] == b"question"
    os.close(copy)
    ring.close()


def test_what_was_received_does_not_change_when_the_worker_rewrites_its_memory(ends: Ends) -> None:
    """Between check and use the worker owns its ring; what the check saw is a copy of our own."""
    ours, theirs, _ = ends
    theirs.send(RESULT)
    got = ours.receive(shape=(2, 3)).body
    theirs._outgoing._map[:64] = b"\xff" * 64
    assert got is not None
    assert torch.equal(got, RESULT.body)


def packet(frame: Frame, offset: int = 0, *, body_length: int | None = None) -> bytes:
    head, _ = encode(frame)
    magic, version, kind, header, length = PREFIX.unpack(head[: PREFIX.size])
    prefix = PREFIX.pack(magic, version, kind, header, length if body_length is None else body_length)
    return prefix + struct.pack("<Q", offset) + bytes(head[PREFIX.size :])


@pytest.mark.parametrize("offset", [SIZE - 23, SIZE, 2**40, 2**64 - 24])
def test_a_body_outside_the_ring_is_refused(ends: Ends, offset: int) -> None:
    ours, _, there = ends
    there.send(packet(RESULT, offset))
    with pytest.raises(IntegrityError, match="points at bytes"):
        ours.receive(shape=(2, 3))


def test_lengths_are_judged_before_contents(ends: Ends) -> None:
    ours, _, there = ends
    there.send(packet(RESULT, body_length=2**29))
    with pytest.raises(IntegrityError, match="536870912 bytes instead of 24"):
        ours.receive(shape=(2, 3))
    there.send(packet(RESULT)[:-3])
    with pytest.raises(IntegrityError, match="header bytes and sends"):
        ours.receive(shape=(2, 3))
    there.send(b"HFWK")
    with pytest.raises(IntegrityError, match="4 bytes, shorter than any frame"):
        ours.receive()
    there.send(b"HFWK" + struct.pack("<H", 9) + packet(RESULT)[6:])
    with pytest.raises(UnsupportedVersion, match="version 9"):
        ours.receive()


def test_silence_and_a_closed_socket(ends: Ends) -> None:
    ours, _, there = ends
    with pytest.raises(WorkerUnreachable, match=r"within 0\.5 seconds"):
        ours.receive()
    there.close()
    with pytest.raises(WorkerUnreachable, match="is gone"):
        ours.receive()
    with pytest.raises(WorkerUnreachable, match="is gone"):
        ours.send(RESULT)


def test_a_message_longer_than_the_ring_says_what_to_do(ends: Ends) -> None:
    ours, _, _ = ends
    with pytest.raises(InvalidConfig, match="does not fit a ring") as caught:
        ours.send(Frame(Kind.RUN, {}, torch.zeros(SIZE + 1, dtype=torch.int8)))
    assert "fewer images" in caught.value.hint


def test_memory_that_could_shrink_is_refused() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    handles = [os.memfd_create("loose", os.MFD_ALLOW_SEALING) for _ in range(2)]
    for handle in handles:
        os.ftruncate(handle, 4096)
    socket.send_fds(here, [struct.pack("<4sQQ", b"HFSM", 4096, 4096)], handles)
    with pytest.raises(IntegrityError, match="not sealed at 4096 bytes"):
        accept(there, timeout=1, peer="the session")
    here.send(b"anything")
    with pytest.raises(IntegrityError, match="does not offer two rings"):
        accept(there, timeout=1, peer="the session")


def test_a_session_over_rings_with_a_lying_worker() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        Worker(lambda layer, y: y + (layer == "down")).serve(accept(there, timeout=None, peer="the session"))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    channel = offer(here, SIZE, timeout=5, peer="the worker")
    session = Session(integer_net(), channel, check=Freivalds(), entropy=Entropy())
    with pytest.raises(IntegrityError, match="'down'"):
        session(images(2))
    assert session.closed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a worker another user")
def test_the_worker_runs_under_another_user_and_the_kernel_says_so() -> None:
    import pwd

    nobody = pwd.getpwnam("nobody").pw_uid
    worker = SpawnedWorker(once=False)
    try:
        channel = worker.connect(60)
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(nobody)] * 4
        assert fields["Groups"].strip() == ""
        assert int(fields["CapEff"], 16) == 0
        assert credentials(channel._signals) == (worker.process.pid, nobody)
        channel.close()
        model = integer_net()
        with shield(model, worker.address) as session:
            assert bit_equal(session(images(2)), model(images(2)))
        dial(worker.address, timeout=5, user=nobody).close()
        with pytest.raises(IntegrityError, match=f"user {nobody} serves .*, not user 1"):
            dial(worker.address, timeout=5, user=1)
    finally:
        worker.close()


def test_a_relay_that_listens_in_the_workers_place_is_refused() -> None:
    """Whoever takes the socket's path over is another process, and the kernel names it."""
    worker = SpawnedWorker(once=False)
    try:
        worker.connect(60).close()
        worker.path.unlink()
        relay = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        relay.bind(str(worker.path))
        relay.listen(1)
        with pytest.raises(IntegrityError, match=f"process {os.getpid()} listens where worker"):
            worker.connect(5)
        relay.close()
    finally:
        worker.close()


def test_users_that_cannot_be_become_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfig, match="no user 'no-such-user'"):
        become("no-such-user")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidConfig, match="only root can become"):
        become("nobody")
