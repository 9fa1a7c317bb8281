"""Calling a gateway that has proved what it runs, for the very session in which it then gets the inputs.

One TLS 1.3 session that is attested first (see :mod:`holdfast.shielding.attestation.tls`: the evidence signs the
client's nonce and the session's exporter), and then carries questions and answers, one after the other::

    question   nothing: what does the model take? | the one tensor ``inputs`` in safetensors format
    answer     u8 0, then JSON, or the one tensor ``outputs`` in safetensors format
               u8 1, then the JSON of a refusal
"""

from __future__ import annotations

import json
import socket
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Any, get_args

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from holdfast.errors import IntegrityError, InvalidConfig, Unavailable
from holdfast.shielding.attestation import Claims, Policy
from holdfast.shielding.attestation.tls import connect
from holdfast.shielding.attestation.tls_channel import Channel
from holdfast.shielding.attestation.tls_context import Certified
from holdfast.shielding.gateway.refusal import Outcome, Refused
from holdfast.shielding.gateway.signature import Signature
from holdfast.shielding.transport.remote import MutualTls

ANSWER, REFUSAL = b"\x00", b"\x01"


class AttestedGateway:
    """A gateway that met the policy; made by :func:`dial_gateway`. Threads may share it and take turns.

    Attributes:
        claims: what its evidence says.
        signature: what a request may hold, in the gateway's words.
        max_body: bytes of the longest request.
    """

    def __init__(self, channel: Channel, claims: Claims) -> None:
        self.claims, self._channel, self._lock = claims, channel, Lock()
        self.signature, self.max_body = _signature(self._ask(b""))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs for ``inputs`` (batch, *shape).

        Raises:
            Refused: this request gets no answer; the session goes on.
            Unavailable: the session broke off, or the gateway is silent; the session is over.
            IntegrityError: the answer is none.
        """
        question = save({"inputs": inputs.contiguous()})
        if len(question) > self.max_body:
            hint = "send fewer inputs at a time"
            raise Refused(f"a request has {self.max_body} bytes at most", hint=hint, outcome="too-large")
        try:
            answer = load(self._ask(question))
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise IntegrityError("the gateway's answer is not in safetensors format") from error
        if set(answer) != {"outputs"}:
            raise IntegrityError("the gateway's answer does not hold the one tensor outputs")
        return answer["outputs"]

    def close(self) -> None:
        """End the session."""
        self._channel.close()

    def __enter__(self) -> AttestedGateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: bytes) -> bytes:
        with self._lock:
            try:
                self._channel.send(question)
                answer = self._channel.receive()
            except BaseException:
                self._channel.close()  # or a late answer would be taken for that of the next question
                raise
        if answer[:1] == REFUSAL:
            raise _refused(answer[1:])
        if answer[:1] != ANSWER:
            raise IntegrityError("the gateway's answer is neither an answer nor a refusal")
        return answer[1:]


def dial_gateway(
    address: str, policy: Policy, *, at: datetime, timeout: float = 60.0, tls: MutualTls | None = None
) -> AttestedGateway:
    """Open a session with the gateway at ``HOST:PORT`` or ``unix:PATH`` that meets ``policy``; send it nothing before.

    Args:
        address: where ``holdfast serve gateway --attested`` listens, or whatever forwards bytes to it: nobody on the
            way needs to be trusted.
        policy: what the gateway's world must be.
        at: the time to verify its evidence for, such as now.
        timeout: seconds of silence after which the session ends.
        tls: who we are, for gateways that ask.

    Raises:
        PolicyError: another code, a debuggable world, stale evidence, or evidence of another session that somebody in
            the middle passes on.
        SignatureInvalid, SignerUntrusted, UnreadableArtifact: forged evidence, or none.
        Unavailable: nobody there speaks attested TLS, or lets us in.
        InvalidConfig: an address that is none.
    """
    stream = _dialled(address, timeout)
    try:
        channel, claims = connect(stream, policy, at=at, timeout=timeout, tls=certified(tls))
    except BaseException:
        stream.close()
        raise
    try:
        return AttestedGateway(channel, claims)
    except BaseException:
        channel.close()
        raise


def certified(tls: MutualTls | None) -> Certified | None:
    """Return the contents of the files."""
    if tls is None:
        return None
    authority, certificate, key = tls.read()
    return Certified(authority=authority, certificate=certificate, key=key)


def _dialled(address: str, timeout: float) -> socket.socket:
    try:
        if address.startswith("unix:"):
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(timeout)
            stream.connect(address.removeprefix("unix:"))
            return stream
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()):
            raise InvalidConfig(f"{address!r} is neither HOST:PORT nor unix:PATH")
        return socket.create_connection((host.removeprefix("[").removesuffix("]"), int(port)), timeout)
    except OSError as error:
        raise Unavailable(f"no gateway listens at {address}: {error.strerror or error}") from error


def _json(raw: bytes) -> Any:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("the gateway says something that is not JSON") from error
    if not isinstance(value, dict):
        raise IntegrityError("the gateway says something that is no JSON object")
    return value


def _signature(raw: bytes) -> tuple[Signature, int]:
    told = _json(raw)
    try:
        found = Signature(shape=tuple(told["shape"]), vocabulary=told["vocabulary"], most=told["most"])
        return found, int(told["max_body"])
    except (InvalidConfig, KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the gateway does not say what its model takes") from error


def _refused(raw: bytes) -> Refused:
    told = _json(raw)
    outcome: Outcome = told["kind"] if told.get("kind") in get_args(Outcome) else "failed"
    after = told.get("retry_after")
    return Refused(
        str(told.get("error", ""))[:1000],
        hint=str(told.get("hint", ""))[:1000],
        outcome=outcome,
        retry_after=after if isinstance(after, int) else None,
    )
