"""One server over HTTP: whole replies or a reason why there is none, and no key to anybody else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any
from urllib.parse import urljoin, urlsplit

from holdfast._extras import extra
from holdfast.errors import InvalidConfig
from holdfast.identification.collectors.secret import Secret

LARGEST = 64 << 20  # bytes of a reply, unpacked
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_LOOPBACK = ("all://127.0.0.1", "all://localhost", "all://[::1]")  # a proxy from the environment cannot reach them
_HOPS = 3
_SAME_METHOD = frozenset({307, 308})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply.

    Attributes:
        status: HTTP's.
        headers: names in lower case.
        body: unpacked, without the key.
        seconds: from sending to the last byte.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class NoReply:
    """Why no whole reply came: a time-out, a connection that was refused or cut, a body that does not unpack."""

    reason: str
    sent: bool  # whether the server may have worked on it, and charge for it
    final: bool = False  # whether asking again would bring the same


def require_http() -> ModuleType:
    """Return the HTTP library; raise :class:`MissingExtra` where it is not installed."""
    found: ModuleType = extra("httpx2", name="servers", needs="asking a server needs httpx2")
    return found


class Client:
    """Connections to one server; use as an asynchronous context manager."""

    def __init__(self, root: str, secret: Secret, *, connections: int, timeout: float) -> None:
        self._http = require_http()
        self._root, self._secret = f"{root.rstrip('/')}/", secret
        limits = self._http.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = self._http.AsyncClient(
            headers={"accept": "application/json", "user-agent": "holdfast"} | secret.headers,
            timeout=self._http.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=limits,
            follow_redirects=False,  # below, where the key is looked after
            mounts=dict.fromkeys(_LOOPBACK) if urlsplit(root).hostname in LOCAL else None,
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str) -> Reply | NoReply:
        """Ask for ``path`` below the server's root."""
        return await self._send("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Reply | NoReply:
        """Send JSON to ``path`` below the server's root."""
        return await self._send("POST", path, body)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply | NoReply:
        url, start = urljoin(self._root, path), time.perf_counter()
        for _ in range(_HOPS):
            try:
                reply = await self._once(method, url, body, start)
            except self._http.InvalidURL as error:
                raise InvalidConfig(f"{url[:200]!r} is no address: {error}", hint="http://127.0.0.1:8000/v1") from error
            except (self._http.TransportError, self._http.DecodingError) as error:
                sent = not isinstance(error, self._http.ConnectError | self._http.ConnectTimeout)
                return NoReply(self._secret.strike_text(f"{type(error).__name__}: {error}".rstrip(": ")), sent)
            if not isinstance(reply, Reply) or reply.status not in _REDIRECTS:
                return reply
            url = self._redirected(url, reply, method)
        raise InvalidConfig(f"{self._root} redirects {_HOPS} times", hint="give the address it ends at")

    async def _once(self, method: str, url: str, body: Mapping[str, Any] | None, start: float) -> Reply | NoReply:
        async with self._client.stream(method, url, json=body) as response:
            parts, size = [], 0
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    return NoReply(f"a reply of more than {LARGEST >> 20} MiB", sent=True, final=True)
            headers = {name.lower(): self._secret.strike_text(value) for name, value in response.headers.items()}
            data = self._secret.strike(b"".join(parts))
            return Reply(response.status_code, headers, data, time.perf_counter() - start)

    def _redirected(self, url: str, reply: Reply, method: str) -> str:
        """Return where a reply leads, on the same server; another one's answers are not this one's."""
        location = reply.headers.get("location", "")
        try:
            target = urljoin(url, location)
            here, there = urlsplit(url), urlsplit(target)
        except ValueError as error:
            raise InvalidConfig(
                f"{urlsplit(url).netloc} redirects to {location[:200]!r}, which is no address",
                hint="give the address it means",
            ) from error
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            raise InvalidConfig(
                f"{here.netloc} redirects to {there.scheme}://{there.netloc}, which was sent nothing",
                hint="give that address instead, if it is the server you mean",
            )
        if method == "POST" and reply.status not in _SAME_METHOD:
            raise InvalidConfig(f"{here.netloc} redirects a request in a way that loses what it asks ({reply.status})")
        return target
