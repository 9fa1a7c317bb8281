"""Where a gateway listens: ``HOST:PORT``, or ``unix:PATH`` for what has no network, such as a process world."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from pathlib import Path

from holdfast.errors import InvalidConfig, WorkerUnreachable

_UNIX = "unix:"
_BACKLOG = 128
_HOST = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|(?P<name>[0-9A-Za-z._-]+))(?::[0-9]{0,5})?", re.ASCII
)  # RFC 3986, 3.2.2


def split(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, or ``unix:PATH`` itself and 0.

    Raises:
        InvalidConfig: it is something else.
    """
    if address.startswith(_UNIX) and address != _UNIX:
        return address, 0
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidConfig(f"{address!r} is not HOST:PORT", hint="such as 127.0.0.1:8080, or unix:PATH")
    return host, int(port)


def split_host(name: str) -> str:
    """Return the host of a Host header, without its port; nothing of one that is malformed."""
    found = _HOST.fullmatch(name)
    return "" if found is None else (found["six"] or found["name"].lower())


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is certainly this machine and no other; names but ``localhost`` are not."""
    if host == "localhost" or host.startswith(_UNIX):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(address: str) -> socket.socket:
    """Return a socket that listens at ``address``; a path is for its owner alone, and must be free.

    Raises:
        WorkerUnreachable: it cannot be had.
        InvalidConfig: the address is none.
    """
    host, port = split(address)
    path = host.removeprefix(_UNIX) if host.startswith(_UNIX) else None
    inet = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(inet if path is None else socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path is None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        else:
            _bind_path(sock, Path(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise WorkerUnreachable(
            f"cannot listen on {address}: {error.strerror or error}", hint="is it taken already?"
        ) from error
    return sock


def released(address: str) -> None:
    """Remove the socket that :func:`bound` made at a path."""
    if address.startswith(_UNIX):
        with suppress(OSError):
            Path(address.removeprefix(_UNIX)).unlink()


def told(address: str, sock: socket.socket) -> str:
    """Return where ``sock`` listens: ``address`` with the port that the system chose."""
    host, _ = split(address)
    return address if address.startswith(_UNIX) else f"{host}:{sock.getsockname()[1]}"


def _bind_path(sock: socket.socket, path: Path) -> None:
    """Bind ``path``; a socket on which nobody listens any more makes way."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe, suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise OSError("somebody listens there")
        path.unlink()
    sock.bind(str(path))
    path.chmod(0o600)
