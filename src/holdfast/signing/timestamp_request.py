"""Asking a timestamp authority over HTTP (RFC 3161, section 3.4). Nothing else in signing touches the network."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from http.client import HTTPException
from typing import IO, NoReturn

from holdfast.errors import InvalidConfig, MissingExtra, SignatureInvalid, WorkerUnreachable
from holdfast.signing.timestamps import MAX_RESPONSE, parse_response, require_imprint

TIMEOUT = 20.0  # seconds to connect, and between two pieces of the answer


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses to be sent elsewhere: the caller named one host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> NoReturn:
        raise WorkerUnreachable(
            f"the timestamp authority sends us to {newurl}", hint="name that address, if it is right"
        )


def request_timestamp(signature: bytes, url: str, *, timeout: float = TIMEOUT) -> bytes:
    """Return the response (DER) of the authority at ``url`` about SHA-512 of ``signature``.

    The answer is checked to be about this signature and to this request; whether the authority is to be trusted is
    the verifier's question.

    Raises:
        InvalidConfig: not an http or https address.
        WorkerUnreachable: no answer, too long a one, or a redirect.
        SignatureInvalid: an answer for other bytes, or to another request.
        UnreadableArtifact: an answer that is no timestamp, or a refusal.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InvalidConfig(f"{url!r} is no address of a timestamp authority", hint="--timestamp https://...")
    body, nonce = _request(signature)
    response = _post(url, body, timeout)
    found = parse_response(response)
    require_imprint(found, signature)
    if found.tst_info.nonce != nonce:
        raise SignatureInvalid("the timestamp authority answered another request")
    return response


def _request(signature: bytes) -> tuple[bytes, int | None]:
    try:
        from rfc3161_client import TimestampRequestBuilder
    except ImportError as error:
        raise MissingExtra("timestamps need rfc3161-client", hint="pip install 'holdfast[timestamps]'") from error
    request = TimestampRequestBuilder().data(signature).nonce(nonce=True).cert_request(cert_request=True).build()
    return request.as_bytes(), request.nonce


def _post(url: str, body: bytes, timeout: float) -> bytes:
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310  http(s) only, above
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=timeout) as answer:
            data: bytes = answer.read(MAX_RESPONSE + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise WorkerUnreachable(f"the timestamp authority at {url} does not answer: {error}") from error
    if len(data) > MAX_RESPONSE:
        raise WorkerUnreachable(f"the timestamp authority at {url} answers with more than {MAX_RESPONSE} bytes")
    return data
