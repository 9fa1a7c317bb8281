"""The gateway over gRPC and mutual TLS: raw bytes in safetensors format, no generated code needed.

``/holdfast.Gateway/Infer`` takes the one tensor ``inputs`` and returns the one tensor ``outputs``;
``/grpc.health.v1.Health/Check`` answers as gRPC's health protocol says.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from holdfast.shielding import MutualTls
from holdfast.shielding.gateway import Gateway, Refused
from holdfast.shielding.gateway.signature import SAFETENSORS, write
from holdfast.shielding.transport.remote import grpc_module, listen_mutually

SERVICE, METHOD = "holdfast.Gateway", "Infer"
_HEALTH = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # HealthCheckResponse with field 1, status
_SPARE = 4  # calls beyond those that wait or are computed, to tell others that it is full


def start_rpc(gateway: Gateway, address: str, tls: MutualTls, *, sessions: int) -> tuple[Any, int]:
    """Start answering at ``HOST:PORT``; return the server and its port.

    Args:
        sessions: of the gateway.

    Raises:
        WorkerUnreachable: the port cannot be had.
        MissingExtra: grpcio is not installed.
    """
    grpc = grpc_module()
    calls = gateway.settings.queue + sessions + _SPARE
    options = [("grpc.max_receive_message_length", gateway.max_body), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(calls), options=options, maximum_concurrent_rpcs=calls)
    unary = grpc.unary_unary_rpc_method_handler
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, {METHOD: unary(lambda raw, call: infer(gateway, raw, call))}),
            grpc.method_handlers_generic_handler(_HEALTH, {"Check": unary(lambda raw, call: health(gateway))}),
        )
    )
    port = listen_mutually(server, address, tls)
    server.start()
    return server, port


def infer(gateway: Gateway, raw: bytes, call: Any) -> bytes:
    """Return the bytes that answer a request, or end the call with a status."""
    try:
        with gateway.arriving(len(raw)) as keep:
            keep(len(raw))
            inputs = gateway.read(raw, SAFETENSORS)
        return write(gateway.submit(inputs).wait(), SAFETENSORS)
    except Refused as refused:
        _abort(call, refused)


def health(gateway: Gateway) -> bytes:
    """Return a HealthCheckResponse."""
    return _SERVING if gateway.readiness()[0] else _NOT_SERVING


def _abort(call: Any, refused: Refused) -> NoReturn:
    if refused.retry_after is not None:
        call.set_trailing_metadata((("retry-after", str(refused.retry_after)),))
    words = f"{refused}; {refused.hint}" if refused.hint else str(refused)
    call.abort(getattr(grpc_module().StatusCode, refused.code.grpc), words)
    raise refused  # abort has raised already; this is for who reads
