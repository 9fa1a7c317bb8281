"""Frames to a worker on another machine: gRPC over mutual TLS. There is no way to open a channel without it.

Each question is one call of raw bytes, so that each has its own deadline, and no generated code is needed. The answer
comes in pieces, uncompressed: we stop reading at the first byte too many, so nobody can make us hold more than we
asked for. TLS says that both ends hold keys that the authority vouched for; whether an answer is true is decided by
the check.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast._extras import extra
from holdfast.errors import IntegrityError, InvalidConfig, UnreadableArtifact, WorkerUnreachable
from holdfast.shielding.sealing.aead import read_private
from holdfast.shielding.transport.wire import MAX_BODY, MAX_HEADER, PREFIX, Frame, Kind, encode, parsed

METHOD = "/holdfast.Worker/Answer"
PIECE = 2**20  # bytes of one message of an answer
_LONGEST = MAX_BODY + MAX_HEADER + PREFIX.size
_PLAIN = ("grpc.compression_enabled_algorithms_bitset", 1)  # what is compressed may be a bomb
ASKING = [("grpc.max_send_message_length", _LONGEST), ("grpc.max_receive_message_length", 2 * PIECE), _PLAIN]
ANSWERING = [("grpc.max_send_message_length", 2 * PIECE), ("grpc.max_receive_message_length", _LONGEST), _PLAIN]
_GOODBYE = 2.0  # seconds that a goodbye may take
_PEER = "the worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualTls:
    """Who we are and whom we trust, as PEM files.

    Args:
        authority: certificates of the authority that vouches for the other side.
        certificate: our certificate, with what leads to the authority.
        key: our private key; nobody but its owner may read it.
        name: the name in the other side's certificate, where it is not the host we dial.
    """

    authority: Path
    certificate: Path
    key: Path
    name: str | None = field(default=None)

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return authority, certificate and key.

        Raises:
            UnreadableArtifact: a file cannot be read.
            InvalidConfig: others than its owner may read the key.
        """
        try:
            public = Path(self.authority).read_bytes(), Path(self.certificate).read_bytes()
        except OSError as error:
            raise UnreadableArtifact(f"cannot read {error.filename}: {error.strerror}") from error
        return *public, read_private(self.key)


def grpc_module() -> Any:
    """Return grpc, which is an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    return extra("grpc", name="grpc", needs="workers on other machines need grpcio")


def listen_mutually(server: Any, address: str, tls: MutualTls) -> int:
    """Have a gRPC server listen at ``HOST:PORT`` for clients that show a certificate; return the port.

    Raises:
        WorkerUnreachable: the port cannot be had.
    """
    grpc = grpc_module()
    authority, certificate, key = tls.read()
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    try:
        port: int = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise WorkerUnreachable(f"cannot listen on {address}", hint="is the port taken?") from error
    return port


class RemoteConnection:
    """Asks one worker over one TLS channel.

    Args:
        channel: of grpc, with credentials.
        timeout: seconds for one question and its answer.
        peer: how messages call the other side.
    """

    def __init__(self, channel: Any, *, timeout: float, peer: str = _PEER) -> None:
        self._channel, self._timeout, self.peer = channel, timeout, peer
        self._call = channel.unary_stream(METHOD, request_serializer=None, response_deserializer=None)
        self._question = b""

    def send(self, frame: Frame) -> None:
        """Keep the question until its answer is waited for; say goodbye at once."""
        self._question = b"".join(encode(frame))
        if frame.kind is Kind.BYE:
            self._ask(_GOODBYE, 0)

    def receive(self, *, shape: tuple[int, ...] | None = None, max_body: int = MAX_BODY) -> Frame:
        """Ask, and return the answer, as :class:`~holdfast.shielding.transport.wire.Channel` says."""
        return parsed(self._ask(self._timeout, max_body), self.peer, shape=shape, max_body=max_body)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _ask(self, timeout: float, max_body: int) -> bytes:
        grpc, call = grpc_module(), self._call(self._question, timeout=timeout)
        try:
            return self._gathered(call, PREFIX.size + MAX_HEADER + max_body)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise WorkerUnreachable(f"{self.peer} did not answer within {timeout:g} seconds") from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED or "ompression" in str(error.details()):
                raise IntegrityError(f"{self.peer} sends other than short plain pieces") from error
            raise WorkerUnreachable(
                f"{self.peer} is gone, or the two sides do not trust each other: {str(error.details())[:200]}",
                hint="is it up, and do both certificates come from the authority of the other side?",
            ) from error

    def _gathered(self, call: Any, most: int) -> bytes:
        parts, length = [], 0
        for part in call:
            parts.append(part)
            length += len(part)
            if length > most:
                call.cancel()
                raise IntegrityError(f"{self.peer} sends more than {most} bytes")
        return b"".join(parts)


def dial_remote(address: str, tls: MutualTls | None, *, timeout: float) -> RemoteConnection:
    """Connect to the worker at ``HOST:PORT``.

    Raises:
        InvalidConfig: without ``tls``; there is no unprotected way.
        MissingExtra: grpcio is not installed.
    """
    if tls is None:
        raise InvalidConfig("a worker on another machine needs mutual TLS", hint="pass tls=MutualTls(...)")
    grpc = grpc_module()
    authority, certificate, key = tls.read()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    options = ASKING + ([("grpc.ssl_target_name_override", tls.name)] if tls.name else [])
    return RemoteConnection(grpc.secure_channel(address, credentials, options=options), timeout=timeout)
