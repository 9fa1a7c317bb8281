"""The gateway over HTTP: an ASGI application, and the uvicorn server that carries it.

::

    POST /v1/infer   {"inputs": [...]} -> {"outputs": [...]}       or both in safetensors format
    GET  /v1/model   what a request may hold
    GET  /healthz    the process works;  /readyz  it can answer;  /metrics  in the text form of Prometheus

Whatever is no answer is an error in JSON: ``error``, ``hint``, ``kind``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from torch import Tensor

from holdfast._extras import extra
from holdfast.services.gateway.addresses import is_loopback, split_host
from holdfast.services.gateway.connections import Displaced, Places
from holdfast.shielding.gateway import Gateway, Job, Refused
from holdfast.shielding.gateway.metrics import CONTENT_TYPE
from holdfast.shielding.gateway.signature import JSON, SAFETENSORS, write

NEEDS = "a gateway needs starlette and uvicorn"
_LINGER = 2.0  # seconds
_KINDS = (JSON, SAFETENSORS)

Headers = Sequence[tuple[bytes, bytes]]


def starlette_module() -> Any:
    """Return starlette, which is an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    for part in ("applications", "exceptions", "requests", "responses", "routing"):
        extra(f"starlette.{part}", name="gateway", needs=NEEDS)
    return extra("starlette", name="gateway", needs=NEEDS)


def application(
    gateway: Gateway, *, patience: float = 10.0, places: int = 256, infer: bool = True, local: bool = False
) -> Any:
    """Return the ASGI application of a gateway.

    Args:
        patience: seconds in which the body of a request must arrive.
        places: requests that may be read or computed at a time.
        infer: whether inputs are taken here; not where clients are to be shown evidence first.
        local: refuse requests to any name but this machine's own: a web page may point a name of its own at loopback,
            and have a browser here ask for it.

    Raises:
        MissingExtra: starlette is not installed.
    """
    starlette = starlette_module()
    route, pages = starlette.routing.Route, _Pages(gateway, Places(places), patience, infer=infer)
    made = starlette.applications.Starlette(
        routes=[
            *([route("/v1/infer", pages.answer, methods=["POST"])] if infer else []),
            route("/v1/model", pages.model),
            route("/healthz", pages.alive),
            route("/readyz", pages.ready),
            route("/metrics", pages.metrics),
        ],
        exception_handlers={starlette.exceptions.HTTPException: pages.misdirected, Exception: pages.broken},
    )
    made.router.redirect_slashes = False  # to a place named after what the request says is our name
    return _judged(made, gateway, local=local)


class _Pages:
    """What is answered at each place."""

    def __init__(self, gateway: Gateway, crowd: Places, patience: float, *, infer: bool) -> None:
        self._gateway, self._crowd, self._patience, self._infer = gateway, crowd, patience, infer

    async def answer(self, request: Any) -> Any:
        try:
            kind = _kind(self._gateway, request)
            with self._crowd.held() as room:
                if not room:
                    raise self._gateway.counted(_crowded())
                body = await _body(self._gateway, request, self._crowd, self._patience)
                inputs = await asyncio.to_thread(self._gateway.read, body, kind)
                outputs = await _outcome(self._gateway.submit(inputs))
                return _plain(await asyncio.to_thread(write, outputs, kind), media_type=kind)
        except Refused as refused:
            return _told(refused.to_json(), refused.code.http, _headers(refused))

    async def model(self, request: Any) -> Any:
        return _told(self._gateway.signature.to_json() | {"max_body": self._gateway.max_body})

    async def alive(self, request: Any) -> Any:
        return _told({"alive": True})

    async def ready(self, request: Any) -> Any:
        good, why = self._gateway.readiness()
        return _told(why, 200 if good else 503)

    async def metrics(self, request: Any) -> Any:
        return _plain(self._gateway.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def misdirected(self, request: Any, error: Any) -> Any:
        refused = self._gateway.counted(_misdirected(error.status_code, self._infer))
        return _told(refused.to_json(), error.status_code, error.headers)

    async def broken(self, request: Any, error: Exception) -> Any:
        refused = self._gateway.counted(Refused("the gateway could not do this", hint="see its log", outcome="broken"))
        return _told(refused.to_json(), refused.code.http)


def _plain(content: object, **options: Any) -> Any:
    return starlette_module().responses.Response(content, **options)


def _told(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Any:
    return _plain(json.dumps(value), status_code=status, media_type=JSON, headers=headers)


def _judged(asked: Any, gateway: Gateway, *, local: bool) -> Any:
    """Return an ASGI application that hands on what has one length and, if ``local``, was addressed to loopback."""

    async def judged(scope: Any, receive: Any, send: Any) -> None:
        headers = scope.get("headers", ())
        if _has_two_lengths(headers):
            refused = Refused("a request has one length", hint="chunked, or Content-Length", outcome="invalid")
            status = 400
        elif local and not _is_for_loopback(headers):
            refused = Refused("this address serves its own machine only", hint="ask for localhost", outcome="invalid")
            status = 421
        else:
            await asked(scope, receive, send)
            return
        await _told(gateway.counted(refused).to_json(), status, {"connection": "close"})(scope, receive, send)

    return judged


def _has_two_lengths(headers: Headers) -> bool:
    """Say whether who forwarded a request may have taken another part of it for its body than we (RFC 9112, 6.1)."""
    return {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}


def _is_for_loopback(headers: Headers) -> bool:
    names = [value for name, value in headers if name == b"host"]
    return len(names) == 1 and is_loopback(split_host(names[0].decode("latin-1")))


def _crowded() -> Refused:
    return Refused("too many requests arrive at once", hint="try again", outcome="overloaded", retry_after=1)


def _misdirected(status: int, infer: bool) -> Refused:
    """Return what is said of a path or a method that is not served."""
    offered = "POST /v1/infer, " if infer else ""
    hint = f"{offered}GET /v1/model, /healthz, /readyz or /metrics"
    return Refused(HTTPStatus(status).phrase.lower(), hint=hint, outcome="invalid")


def _kind(gateway: Gateway, request: Any) -> str:
    kind: str = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _KINDS:
        hint = f"send {' or '.join(_KINDS)}"
        raise gateway.counted(Refused(f"the request is of type {kind[:50]!r}", hint=hint, outcome="invalid"))
    return kind


async def _body(gateway: Gateway, request: Any, crowd: Places, patience: float) -> bytes:
    """Read a body of bounded length in bounded time."""
    announced, stream = request.headers.get("content-length", ""), request.stream()
    with gateway.arriving(int(announced) if announced.isascii() and announced.isdigit() else None) as keep:
        try:
            async with crowd.arriving(patience):
                return await _collected(gateway, stream, keep)
        except Refused as refused:
            if refused.outcome != "gone":
                await _drained(stream, crowd)
            raise
        except Displaced as error:
            raise gateway.counted(_crowded()) from error
        except TimeoutError as error:
            raise gateway.counted(
                Refused(f"the request did not arrive within {patience:g} seconds", outcome="slow")
            ) from error


async def _collected(gateway: Gateway, stream: AsyncIterator[bytes], keep: Callable[[int], None]) -> bytes:
    body = bytearray()
    try:
        async for part in stream:
            keep(len(part))
            body += part
    except starlette_module().requests.ClientDisconnect as error:
        raise gateway.counted(Refused("the client left", outcome="gone")) from error
    return bytes(body)


async def _drained(stream: AsyncIterator[bytes], crowd: Places) -> None:
    """Read on for a moment: who is still sending would meet a reset connection before the refusal."""
    with suppress(TimeoutError, starlette_module().requests.ClientDisconnect):
        async with crowd.arriving(_LINGER):
            async for _ in stream:
                pass


async def _outcome(job: Job) -> Tensor:
    """Return what a job ends with, at its time-out at the latest."""
    future = asyncio.wrap_future(job.future)
    try:
        return await asyncio.wait_for(asyncio.shield(future), max(job.left, 0.0))
    except TimeoutError:
        job.expire()
        return await future  # an answer that came between the two lines counts
    finally:
        del job, future  # or an error, its traceback and the job with its inputs would hold each other


def _headers(refused: Refused) -> dict[str, str]:
    """Return headers of an error; a connection whose request was not read to its end cannot carry another."""
    headers = {"retry-after": str(refused.retry_after)} if refused.retry_after is not None else {}
    if refused.outcome in ("too-large", "slow", "gone", "draining", "overloaded", "no-worker"):
        headers["connection"] = "close"
    return headers
