"""Running a gateway until SIGTERM: sockets are had or refused first, and nothing accepted is dropped at the end."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast._extras import extra
from holdfast.errors import InvalidConfig, WorkerUnreachable
from holdfast.services.gateway.http import NEEDS, application, hurried
from holdfast.services.gateway.rpc import start_rpc
from holdfast.shielding import MutualTls
from holdfast.shielding.gateway import Gateway
from holdfast.shielding.transport.remote import grpc_module

_HEAD = 16 * 1024  # bytes of a request's head
_SPARE = 64  # connections beyond those of requests in hand: probes, scrapes, and whoever is told to come again
_BACKLOG = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where a gateway listens, and how patiently.

    Args:
        http: HOST:PORT; port 0 takes any. Beyond this machine only with ``tls``.
        grpc: HOST:PORT, with ``tls`` always; None is nowhere.
        tls: who we are, and the authority that vouches for clients.
        arrival: seconds in which the head of a request, and then its body, must arrive.
        drain: seconds that accepted requests are waited for after SIGTERM.
    """

    http: str = "127.0.0.1:8080"
    grpc: str | None = None
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
        if self.grpc is None:
            return
        split(self.grpc)
        grpc_module()
        if self.tls is None:
            raise InvalidConfig("gRPC needs mutual TLS", hint="--tls-ca, --tls-cert and --tls-key")


def serve_gateway(
    gateway: Gateway, listen: Listen, *, sessions: int, ready: Callable[[str, int | None], None] | None = None
) -> None:
    """Answer requests until SIGTERM or SIGINT; then refuse new ones, answer those in hand, and return.

    Args:
        sessions: of the gateway.
        ready: called with the URL and the port of gRPC once both listen; sessions may still be opening.

    Raises:
        InvalidConfig: an address that is none, or one beyond this machine without TLS.
        WorkerUnreachable: a port cannot be had.
        MissingExtra: starlette, uvicorn or grpcio is not installed.
    """
    listen.require_possible()
    host, port = split(listen.http)
    context = context_of(listen.tls, host)
    server = _server(gateway, listen, sessions, context)
    with _bound(host, port) as sock, gateway:
        rpc = None
        if listen.grpc is not None and listen.tls is not None:
            rpc = start_rpc(gateway, listen.grpc, listen.tls, sessions=sessions)
        try:
            if ready is not None:
                url = f"{'http' if context is None else 'https'}://{host}:{sock.getsockname()[1]}"
                ready(url, None if rpc is None else rpc[1])
            server.run(sockets=[sock])
        finally:
            if rpc is not None:
                rpc[0].stop(grace=1).wait()


def split(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises:
        InvalidConfig: it is something else.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidConfig(f"{address!r} is not HOST:PORT", hint="such as 127.0.0.1:8080")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is certainly this machine and no other; names but ``localhost`` are not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise WorkerUnreachable(
            f"cannot listen on {host}:{port}: {error.strerror or error}", hint="is the port taken?"
        ) from error
    return sock


def uvicorn_module() -> Any:
    """Return uvicorn, which is an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    extra("uvicorn.protocols.http.h11_impl", name="gateway", needs=NEEDS)
    return extra("uvicorn", name="gateway", needs=NEEDS)


def _server(gateway: Gateway, listen: Listen, sessions: int, context: ssl.SSLContext | None) -> Any:
    uvicorn = uvicorn_module()
    config = uvicorn.Config(
        application(gateway, patience=listen.arrival),
        http=hurried(uvicorn.protocols.http.h11_impl.H11Protocol, listen.arrival),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=gateway.settings.queue + sessions + _SPARE,
        h11_max_incomplete_event_size=_HEAD,
        timeout_graceful_shutdown=5,
        ssl_context_factory=None if context is None else lambda config, default: context,
    )
    return _orderly(uvicorn.Server(config), gateway, listen.drain)


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
