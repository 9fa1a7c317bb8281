"""A gateway that serves in a thread of the test, and a client that speaks plain HTTP."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from torch import Tensor

from holdfast.services.gateway import Listen, Listening, serve_gateway, serving
from holdfast.shielding.gateway import Gateway


@dataclass
class Serving:
    """Where it listens, and how to end it."""

    gateway: Gateway
    port: int = 0
    rpc: int | None = None
    attested: str | None = None
    server: Any = None
    thread: threading.Thread = field(default_factory=threading.Thread)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        plain = answer.headers.get("content-type") == "application/json"
        named = {name.lower(): value for name, value in answer.headers.items()}
        return answer.status, json.loads(raw) if plain else raw, named

    def infer(self, inputs: Tensor) -> tuple[int, Any, dict[str, str]]:
        return self.ask("POST", "/v1/infer", json.dumps({"inputs": inputs.tolist()}), content_type="application/json")

    def count(self, outcome: str) -> int:
        return self.gateway.metrics.requests.count(outcome)  # type: ignore[arg-type]

    def terminate(self) -> None:
        """What SIGTERM does; signals reach only the main thread."""
        self.server.handle_exit(15, None)


@contextmanager
def serving_gateway(gateway: Gateway, **how: Any) -> Iterator[Serving]:
    """Serve on ports of the system's choice until the block ends."""
    listen, up = Listen(**({"http": "127.0.0.1:0", "arrival": 5.0} | how)), threading.Event()
    made, orderly = Serving(gateway), serving._orderly

    def keep(*arguments: Any) -> Any:
        made.server = orderly(*arguments)
        return made.server

    def ready(found: Listening) -> None:
        made.port, made.rpc, made.attested = int(found.http.rpartition(":")[2]), found.grpc, found.attested
        up.set()

    made.thread = threading.Thread(
        target=serve_gateway, args=(gateway, listen), kwargs={"sessions": 2, "ready": ready}, daemon=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "_orderly", keep)
        made.thread.start()
        assert up.wait(30)
    try:
        yield made
    finally:
        made.terminate()
        made.thread.join(20)
        assert not made.thread.is_alive()
