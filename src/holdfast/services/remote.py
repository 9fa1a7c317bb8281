"""The worker for other machines: gRPC over mutual TLS, several sessions side by side."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch

from holdfast.errors import HoldfastError, IntegrityError, MissingDevice, WorkerUnreachable
from holdfast.services.device import prepared
from holdfast.services.worker import Service, Worker, lie
from holdfast.shielding.transport.remote import ANSWERING, METHOD, PIECE, MutualTls, grpc_module, listen_mutually
from holdfast.shielding.transport.wire import Frame, Kind, encode, parsed

_SESSIONS = 64  # at a time
_IDLE = 600.0  # seconds after which a session that said nothing makes room for a new one
_PEER = "the session"


class Switchboard:
    """Brings each question to the worker of its session.

    Args:
        make: returns the worker of a new session.

    Attributes:
        failure: of the device, after which no answer is worth anything; None so far.
        on_failure: called when it fails.
    """

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make, self._lock = make, Lock()
        self.failure: MissingDevice | None = None
        self.on_failure: Callable[[], object] = lambda: None
        self._sessions: OrderedDict[str, tuple[Worker, float]] = OrderedDict()  # with when each last spoke

    def answer(self, raw: bytes) -> bytes:
        """Return the bytes that answer a question; errors become a frame that says so."""
        try:
            frame = parsed(raw, _PEER)
            with self._lock:  # products use all threads they may already
                reply = self._answer(frame)
        except HoldfastError as error:
            reply = Frame(Kind.ERROR, {"message": str(error)[:1000]})
            if isinstance(error, MissingDevice):
                self.failure = error
                self.on_failure()
        return b"".join(encode(reply))

    def _answer(self, frame: Frame) -> Frame:
        nonce, now = frame.header.get("nonce"), time.monotonic()
        if not isinstance(nonce, str):
            raise IntegrityError("the session names itself by no nonce")
        if frame.kind is Kind.BYE:
            self._sessions.pop(nonce, None)
            return Frame(Kind.BYE)
        if frame.kind is Kind.HELLO:
            self._make_room(now)
            self._sessions[nonce] = self._make(), now
        if nonce not in self._sessions:
            raise IntegrityError("the session sends the nonce of another session, or of one that was idle for too long")
        worker = self._sessions.pop(nonce)[0]
        self._sessions[nonce] = worker, now  # the last one is the one that spoke last
        return worker.answer(frame)

    def _make_room(self, now: float) -> None:
        """Forget the session that has said nothing for the longest time, where there is no place left but its own."""
        while len(self._sessions) >= _SESSIONS:
            if now - next(iter(self._sessions.values()))[1] <= _IDLE:
                raise WorkerUnreachable(f"this worker has {_SESSIONS} sessions already and takes no other")
            self._sessions.popitem(last=False)


def serve_remote(
    address: str, tls: MutualTls, service: Service | None = None, *, ready: Callable[[int], None] | None = None
) -> None:
    """Answer sessions at ``HOST:PORT`` until the process is ended; clients must show a certificate.

    Args:
        address: where to listen; port 0 takes any.
        ready: called with the port when sessions can connect.

    Raises:
        WorkerUnreachable: the port cannot be had.
        MissingExtra: grpcio is not installed.
        MissingDevice: the device does not exist here, or it failed in a session.
    """
    grpc_module()  # says what is missing before anything is tested
    service = Service() if service is None else service
    distort = None if service.fault is None else lie(service.fault, service.seed)
    torch.set_num_threads(service.threads)
    board = Switchboard(lambda: Worker(distort, device=service.device))
    with prepared(service.device, memory=service.device_memory):
        _serve(address, tls, board, ready)
    if board.failure is not None:
        raise board.failure


def _serve(address: str, tls: MutualTls, board: Switchboard, ready: Callable[[int], None] | None) -> None:
    server, port = _bind(grpc_module(), address, tls, board)
    board.on_failure = lambda: server.stop(grace=1)
    try:
        server.start()
        if ready is not None:
            ready(port)
        server.wait_for_termination()
    finally:
        server.stop(grace=1).wait()


def _pieces(answer: bytes) -> Iterator[bytes]:
    return (answer[start : start + PIECE] for start in range(0, len(answer), PIECE))


def _bind(grpc: Any, address: str, tls: MutualTls, board: Switchboard) -> tuple[Any, int]:
    handler = grpc.unary_stream_rpc_method_handler(lambda raw, _: _pieces(board.answer(raw)))
    _, service, method = METHOD.split("/")
    server = grpc.server(ThreadPoolExecutor(2), options=[*ANSWERING, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    return server, listen_mutually(server, address, tls)
