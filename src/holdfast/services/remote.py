"""The worker for other machines: gRPC over mutual TLS, several sessions side by side."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch

from holdfast.errors import HoldfastError, IntegrityError, WorkerUnreachable
from holdfast.services.worker import Service, Worker, lie, require_device
from holdfast.shielding.transport.remote import LIMITS, METHOD, MutualTls, grpc_module
from holdfast.shielding.transport.wire import Frame, Kind, encode, parsed

_SESSIONS = 16  # at a time; the one unused longest makes room
_PEER = "the session"


class Switchboard:
    """Brings each question to the worker of its session.

    Args:
        make: returns the worker of a new session.
    """

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make, self._lock = make, Lock()
        self._sessions: OrderedDict[object, Worker] = OrderedDict()

    def answer(self, raw: bytes) -> bytes:
        """Return the bytes that answer a question; errors become a frame that says so."""
        try:
            frame = parsed(raw, _PEER)
            with self._lock:  # products use all threads they may already
                reply = self._answer(frame)
        except HoldfastError as error:
            reply = Frame(Kind.ERROR, {"message": str(error)[:1000]})
        return b"".join(encode(reply))

    def _answer(self, frame: Frame) -> Frame:
        nonce = frame.header.get("nonce")
        if frame.kind is Kind.BYE:
            return Frame(Kind.BYE)
        if frame.kind is Kind.HELLO and isinstance(nonce, str):
            while len(self._sessions) >= _SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[nonce] = self._make()
        if nonce not in self._sessions:
            raise IntegrityError("the session sends the nonce of another session")
        self._sessions.move_to_end(nonce)
        return self._sessions[nonce].answer(frame)


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
        MissingDevice: the device does not exist here.
    """
    grpc, service = grpc_module(), Service() if service is None else service
    distort = None if service.fault is None else lie(service.fault, service.seed)
    torch.set_num_threads(service.threads)
    require_device(service.device)
    board = Switchboard(lambda: Worker(distort, device=service.device))
    server, port = _bind(grpc, address, tls, board)
    try:
        server.start()
        if ready is not None:
            ready(port)
        server.wait_for_termination()
    finally:
        server.stop(grace=1).wait()


def _bind(grpc: Any, address: str, tls: MutualTls, board: Switchboard) -> tuple[Any, int]:
    authority, certificate, key = tls.read()
    handler = grpc.unary_unary_rpc_method_handler(lambda raw, _: board.answer(raw))
    _, service, method = METHOD.split("/")
    server = grpc.server(ThreadPoolExecutor(2), options=[*LIMITS, ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise WorkerUnreachable(f"cannot listen on {address}", hint="is the port taken?") from error
    return server, port
