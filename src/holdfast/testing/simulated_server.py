"""A server on the loopback interface that answers like a real one, and misbehaves on demand.

It speaks HTTP, so what is tested with it is what runs against real servers: rate limits, failures, dropped
connections, truncated answers, rounding, mixed fleets, lies about itself. What happens to a request depends on the
seed, the request and how often it came, not on the order in which requests arrive, so drills repeat exactly.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive
from holdfast.testing.simulated_replies import Variant, dump
from holdfast.testing.simulated_wire import KINDS, cut, places_of, read_request, without_logprobs, write_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Mischief:
    """What goes wrong; shares of the attempts, 0 .. 1, of which at most one happens to each.

    Attributes:
        limited: refused with 429 and ``Retry-After``.
        failing: answered with 500.
        dropped: the connection is closed in the middle of the reply.
        truncated: half of the tokens are missing, though the reply says that it is whole.
        garbled: the reply is no JSON.
        wait: seconds named in ``Retry-After``.
        mute: no log-probabilities at all.
        most: log-probabilities at a position, whatever was asked for; None is no cap.
        echo_key: the key is repeated in every reply, in the text and in a header.
        redirect: where every request is sent instead.
        delay: seconds before every reply.
        closed: paths at which there is nothing, such as ``/v1/completions``.
        claims: replies of metadata places, in place of true ones.
    """

    limited: float = 0.0
    failing: float = 0.0
    dropped: float = 0.0
    truncated: float = 0.0
    garbled: float = 0.0
    wait: float = 0.05
    mute: bool = False
    most: int | None = None
    echo_key: bool = False
    redirect: str | None = None
    delay: float = 0.0
    closed: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict)

    def drawn(self, seed: int, body: str, attempt: int) -> str:
        """Return what happens to an attempt: ``limited``, ..., or an empty text."""
        left = float(derive(seed, "mischief", body, attempt).numpy().random())
        for name in ("limited", "failing", "dropped", "truncated", "garbled"):
            left -= getattr(self, name)
            if left < 0:
                return name
        return ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came in, with what was done about it."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    fate: str


class SimulatedServer:
    """A context manager that serves until the block ends; ``url`` is what a collector is given.

    Args:
        fleet: the machines behind the address; which one answers depends on the request alone.
        kind: openai, vllm, sglang, llama.cpp or tgi.
        model: the name under which it serves.
        key: what it demands as ``Authorization: Bearer``; None admits everybody.
        mischief: what goes wrong.
        seed: of all of that.
        port: to listen on; any free one by default.
    """

    def __init__(
        self,
        fleet: Sequence[Variant] = (Variant(),),
        *,
        kind: str = "openai",
        model: str = "simulated",
        key: str | None = None,
        mischief: Mischief | None = None,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        if kind not in KINDS or not fleet:
            raise InvalidConfig(f"no simulated server of kind {kind!r}", hint=", ".join(KINDS))
        self.fleet, self.kind, self.model, self.key = tuple(fleet), kind, model, key
        self.mischief, self.seed = mischief or Mischief(), seed
        self.seen: list[Seen] = []
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Listener(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Its address, with ``/v1``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def asked(self) -> list[Seen]:
        """The requests for answers, without those for metadata and empty ones."""
        return [seen for seen in self.seen if seen.body]

    def start(self) -> SimulatedServer:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> SimulatedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def attempt(self, text: str) -> int:
        """Count and return how often this very request came, from 1."""
        with self._lock:
            self._attempts[text] += 1
            return self._attempts[text]

    def machine(self, text: str) -> Variant:
        """Return the machine that answers a request."""
        left = float(derive(self.seed, "fleet", text).numpy().random()) * sum(item.share for item in self.fleet)
        for item in self.fleet:
            left -= item.share
            if left < 0:
                return item
        return self.fleet[-1]

    def note(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any], fate: str) -> None:
        """Remember a request."""
        with self._lock:
            self.seen.append(Seen(path, dict(headers), dict(body), fate))


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up belong to the drill."""


def _handler(server: SimulatedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        simulated = server

    return Handler


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    simulated: SimulatedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Say what the server is."""
        server = self.simulated
        server.note(self.path, dict(self.headers), {}, "")
        if self._is_turned_away():
            return
        places = {**places_of(server.kind, server.model), **server.mischief.claims}
        if self.path in places:
            self._send(200, dump(places[self.path]))
        else:
            self._fail(404, f"no {self.path}")

    def do_POST(self) -> None:
        """Answer, or misbehave."""
        server = self.simulated
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        text = raw.decode("utf-8", "replace")
        fate = server.mischief.drawn(server.seed, text, server.attempt(text)) if body else ""
        server.note(self.path, dict(self.headers), body, fate)
        if self._is_turned_away():
            return
        time.sleep(server.mischief.delay)
        if fate == "limited":
            self._fail(429, "too many requests", {"Retry-After": str(server.mischief.wait)})
        elif fate == "failing":
            self._fail(500, "out of memory")
        else:
            self._answer(body, text, fate)

    def _is_turned_away(self) -> bool:
        server = self.simulated
        if server.mischief.redirect is not None:
            self._send(307, b"", {"Location": server.mischief.redirect + self.path})
            return True
        if server.key is not None and self.headers.get("authorization") != f"Bearer {server.key}":
            self._fail(401, "invalid key")
            return True
        return False

    def _answer(self, body: Mapping[str, Any], text: str, fate: str) -> None:
        server = self.simulated
        if self.path not in _PLACES[server.kind] - server.mischief.closed:
            self._fail(404, f"no {self.path}")
            return
        try:
            asked = read_request(self.path, body)
        except (KeyError, TypeError, IndexError):
            self._fail(400, "this is no request")
            return
        if asked.model not in ("", server.model):
            self._fail(404, f"the model {asked.model} does not exist")
            return
        if server.mischief.most is not None:
            asked = dataclasses.replace(asked, top=min(asked.top, server.mischief.most))
        reply = write_reply(server.kind, self.path, body, server.machine(text), asked)
        self._finish(reply, fate)

    def _finish(self, reply: dict[str, Any], fate: str) -> None:
        mischief, headers = self.simulated.mischief, {}
        reply = without_logprobs(reply) if mischief.mute else cut(reply) if fate == "truncated" else reply
        if mischief.echo_key:
            headers["X-Key-Version"] = self.headers.get("authorization", "")
            reply["system_fingerprint"] = self.headers.get("authorization", "")
        data = dump(reply)
        if fate == "garbled":
            data = data[: len(data) // 2]
        if fate == "dropped":
            self._drop(data)
        else:
            self._send(200, data, headers)

    def _drop(self, data: bytes) -> None:
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
        self.close_connection = True

    def _fail(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        if self.simulated.mischief.echo_key:
            message += f" ({self.headers.get('authorization')})"
        self._send(status, dump({"error": {"message": message, "type": "simulated"}}), headers)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


_OPENAI = frozenset({"/v1/completions", "/v1/chat/completions"})
_PLACES = {
    "openai": _OPENAI,
    "vllm": _OPENAI,
    "sglang": _OPENAI | {"/generate"},
    "llama.cpp": _OPENAI,
    "tgi": frozenset({"/generate"}),
}
