"""Running a gateway until SIGTERM: sockets are had or refused first, and nothing accepted is dropped at the end."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast._extras import extra
from holdfast.errors import InvalidConfig
from holdfast.services.gateway.addresses import bound, is_loopback, released, split, told
from holdfast.services.gateway.attested import AttestedDoor, Quote
from holdfast.services.gateway.connections import Waiting, hurried
from holdfast.services.gateway.http import NEEDS, application
from holdfast.services.gateway.rpc import start_rpc
from holdfast.shielding import MutualTls
from holdfast.shielding.gateway import Gateway
from holdfast.shielding.transport.remote import grpc_module

_HEAD = 16 * 1024  # bytes of a request's head
_SPARE = 64  # requests beyond those that wait or are computed: what arrives, and whoever is told to come again
_WAITING = 256  # connections that have no request in hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where a gateway listens, and how patiently.

    Args:
        http: HOST:PORT or unix:PATH; port 0 takes any. Beyond this machine only with ``tls``.
        grpc: HOST:PORT, with ``tls`` always; None is nowhere.
        attested: HOST:PORT or unix:PATH for attested sessions; None is nowhere. With it inputs are taken there and
            nowhere else: HTTP tells health and metrics, and there is no gRPC.
        quote: makes the evidence for ``attested``.
        tls: who we are, and the authority that vouches for clients.
        arrival: seconds in which the head of a request, and then its body, must arrive.
        drain: seconds that accepted requests are waited for after SIGTERM.
    """

    http: str = "127.0.0.1:8080"
    grpc: str | None = None
    attested: str | None = None
    quote: Quote | None = None
    tls: MutualTls | None = None
    arrival: float = 10.0
    drain: float = 30.0

    def require_possible(self) -> None:
        """Refuse what cannot or must not be listened on.

        Raises:
            InvalidConfig: an address that is none, one beyond this machine without TLS, or TLS files that do not fit.
            MissingExtra: starlette, uvicorn or grpcio is not installed.
        """
        host, _ = split(self.http)
        context_of(self.tls, host)
        uvicorn_module()
        self._require_attestable()
        if self.grpc is None:
            return
        split(self.grpc)
        grpc_module()
        if self.tls is None:
            raise InvalidConfig("gRPC needs mutual TLS", hint="--tls-ca, --tls-cert and --tls-key")

    def _require_attestable(self) -> None:
        if self.attested is None:
            return
        host, _ = split(self.attested)
        if self.quote is None:
            raise InvalidConfig("attested sessions need evidence", hint="start the gateway in a world")
        if self.grpc is not None:
            raise InvalidConfig("a gateway that proves what it runs takes inputs there alone", hint="leave --grpc out")
        if self.tls is None and not is_loopback(host):
            raise InvalidConfig(
                f"{host} is reached from other machines, so clients must show certificates",
                hint="--tls-ca, --tls-cert and --tls-key, or listen on 127.0.0.1 or unix:PATH",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a gateway listens in the end.

    Attributes:
        http: URL, or unix:PATH.
        grpc: port.
        attested: HOST:PORT or unix:PATH.
    """

    http: str
    grpc: int | None = None
    attested: str | None = None


def serve_gateway(
    gateway: Gateway, listen: Listen, *, sessions: int, ready: Callable[[Listening], None] | None = None
) -> None:
    """Answer requests until SIGTERM or SIGINT; then refuse new ones, answer those in hand, and return.

    Args:
        sessions: of the gateway.
        ready: called once all sockets listen; sessions may still be opening.

    Raises:
        InvalidConfig: an address that is none, or one beyond this machine without TLS.
        WorkerUnreachable: a port cannot be had.
        MissingExtra: starlette, uvicorn or grpcio is not installed.
    """
    listen.require_possible()
    context = context_of(listen.tls, split(listen.http)[0])
    server = _server(gateway, listen, sessions, context)
    with bound(listen.http) as sock:
        try:
            with gateway, _attested(gateway, listen, sessions) as attested, _rpc(gateway, listen, sessions) as rpc:
                if ready is not None:
                    ready(Listening(http=_url(listen.http, sock, context), grpc=rpc, attested=attested))
                server.run(sockets=[sock])
        finally:
            released(listen.http)


def _url(address: str, sock: socket.socket, context: ssl.SSLContext | None) -> str:
    place = told(address, sock)
    return place if place.startswith("unix:") else f"{'http' if context is None else 'https'}://{place}"


@contextmanager
def _rpc(gateway: Gateway, listen: Listen, sessions: int) -> Iterator[int | None]:
    if listen.grpc is None or listen.tls is None:
        yield None
        return
    server, port = start_rpc(gateway, listen.grpc, listen.tls, sessions=sessions)
    try:
        yield port
    finally:
        server.stop(grace=1).wait()


@contextmanager
def _attested(gateway: Gateway, listen: Listen, sessions: int) -> Iterator[str | None]:
    if listen.attested is None or listen.quote is None:
        yield None
        return
    sock, clients = bound(listen.attested), gateway.settings.queue + sessions + _SPARE
    door = AttestedDoor(gateway, sock, listen.quote, tls=listen.tls, sessions=clients, arrival=listen.arrival)
    try:
        door.start()
        yield told(listen.attested, sock)
    finally:
        door.close()
        released(listen.attested)


def context_of(tls: MutualTls | None, host: str) -> ssl.SSLContext | None:
    """Return what protects connections to ``host``; None for loopback without ``tls``.

    Raises:
        InvalidConfig: ``host`` is reached from elsewhere and there is no ``tls``, or its files do not fit together.
    """
    if tls is None:
        if is_loopback(host):
            return None
        raise InvalidConfig(
            f"{host} is reached from other machines, so it needs mutual TLS",
            hint="--tls-ca, --tls-cert and --tls-key, or listen on 127.0.0.1",
        )
    tls.read()  # refuses a key that others may read
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.authority)
    except ssl.SSLError as error:
        raise InvalidConfig(f"the TLS files do not fit together: {error.reason}") from error
    return context


def uvicorn_module() -> Any:
    """Return uvicorn, which is an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    extra("uvicorn.protocols.http.h11_impl", name="gateway", needs=NEEDS)
    return extra("uvicorn", name="gateway", needs=NEEDS)


def _server(gateway: Gateway, listen: Listen, sessions: int, context: ssl.SSLContext | None) -> Any:
    uvicorn = uvicorn_module()
    _told_by(gateway)
    config = uvicorn.Config(
        application(
            gateway,
            patience=listen.arrival,
            places=gateway.settings.queue + sessions + _SPARE,
            infer=listen.attested is None,
            local=context is None and not listen.http.startswith("unix:"),
        ),
        http=hurried(uvicorn.protocols.http.h11_impl.H11Protocol, listen.arrival, Waiting(_WAITING), gateway.counted),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEAD,
        timeout_graceful_shutdown=5,
        ssl_context_factory=None if context is None else lambda config, default: context,
    )
    return _orderly(uvicorn.Server(config), gateway, listen.drain)


class _Events(logging.Handler):
    """Writes what uvicorn has to say as events, so that standard error stays one line of JSON for each."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(logging.WARNING)
        self._gateway = gateway

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message, without a traceback: it may hold data of a request."""
        fault = record.exc_info[0] if record.exc_info else None
        error = None if fault is None else fault.__name__
        self._gateway.audit("http-server", level=record.levelname, message=record.getMessage(), error=error)


def _told_by(gateway: Gateway) -> None:
    """Have the loggers of the server and of its event loop write events of ``gateway``, and nothing else."""
    for name in ("uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Events(gateway)], False


def _orderly(server: Any, gateway: Gateway, patience: float) -> Any:
    """Make signals drain the gateway before the server stops; a second signal does not wait."""
    until: list[float] = []
    tick = server.on_tick

    def handle_exit(number: int, frame: object) -> None:
        if until:
            server.should_exit = True
        until.append(time.monotonic() + patience)

    async def on_tick(counter: int) -> bool:
        if until:
            gateway.drain()
            server.should_exit |= gateway.drained or time.monotonic() > until[0]
            if server.should_exit:
                gateway.pool.stop()  # whoever still waits is told so before the connections end
        return bool(await tick(counter))

    server.handle_exit, server.on_tick = handle_exit, on_tick
    return server
