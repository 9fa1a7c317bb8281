"""``holdfast serve gateway``: what an application calls to have a model computed by workers that nobody trusts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import Architecture, Seed, say
from holdfast.cli._integer import integer_of, named_model
from holdfast.errors import InvalidConfig, UsageError

if TYPE_CHECKING:
    from holdfast.services.gateway import Listening
    from holdfast.shielding import MutualTls
    from holdfast.shielding.graph import IntegerModel
    from holdfast.shielding.offloaded import Placements

EPILOG = (
    "Example: holdfast serve gateway integer/ --plan plan.json --worker spawn --workers 2; "
    "then curl -H 'Content-Type: application/json' -d @request.json http://127.0.0.1:8080/v1/infer"
)
_NAMED = 8  # layers of one placement in the line at start


class Placement(StrEnum):
    """Where integer layers run."""

    BLINDED = "blinded"
    VERIFIED = "verified"


def gateway(
    model: Annotated[
        str, typer.Argument(help="What holdfast shield export wrote; or with --data any model, or architecture.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Training data for the ranges of a model not exported yet: digits, ...")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Where each layer runs, as holdfast shield plan MODEL -o FILE wrote it.")
    ] = None,
    worker: Annotated[
        list[str] | None, typer.Option(help="spawn, unix:PATH, shared:PATH or grpc:HOST:PORT; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Sessions with spawned workers, and with each over gRPC.", min=1)] = 2,
    http: Annotated[
        str, typer.Option(help="HOST:PORT or unix:PATH; beyond this machine only with TLS.")
    ] = "127.0.0.1:8080",
    grpc: Annotated[str | None, typer.Option(help="HOST:PORT, over mutual TLS.")] = None,
    attested: Annotated[
        str | None, typer.Option(help="HOST:PORT or unix:PATH where clients get evidence first; only inside a world.")
    ] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Authority that vouches for clients and workers (PEM).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of this gateway (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, readable by its owner only (PEM).")] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; one more is told to come again.", min=1)] = 64,
    timeout: Annotated[float, typer.Option(help="Seconds from a request to its answer or error.")] = 30.0,
    worker_timeout: Annotated[float, typer.Option(help="Seconds a worker may take for one answer.")] = 10.0,
    max_body: Annotated[
        int | None,
        typer.Option(help="Bytes of the longest request. [default: what inputs need, to 16 MiB]", min=1),
    ] = None,
    most: Annotated[int, typer.Option(help="Inputs in one request.", min=1)] = 64,
    batch: Annotated[int, typer.Option(help="Inputs of waiting requests to compute together; 1 is none.", min=1)] = 1,
    drain: Annotated[float, typer.Option(help="Seconds that requests in hand get after SIGTERM.")] = 30.0,
    placement: Annotated[
        Placement | None,
        typer.Option(help="blinded: workers see noise; verified: they see int8 activations. [default: blinded]"),
    ] = None,
    prepare: Annotated[int, typer.Option(help="Inputs that idle sessions keep masks ready for.", min=0)] = 0,
    samples: Annotated[int | None, typer.Option(help="Training samples for the ranges. [default: 128]", min=1)] = None,
    top_code: Annotated[
        int | None, typer.Option(help="Largest activation code of linear nodes. [default: 127]", min=1, max=127)
    ] = None,
    fault: Annotated[str | None, typer.Option(help="Spawned workers lie, e.g. bit-flip; for drills.")] = None,
    arch: Architecture = None,
    seed: Seed = 0,
) -> None:
    """Answer requests over HTTP and gRPC until SIGTERM, with results bit-equal to the plaintext int8 model.

    Workers that crash are replaced, workers that lie are quarantined, and their requests go to others. Without a
    worker to trust, requests are refused; nothing is computed here instead.
    """
    from holdfast.services.gateway import Listen, serve_gateway
    from holdfast.services.gateway.attested import quote_of_this_world
    from holdfast.shielding.gateway import Audit, Gateway, Settings, Signature, sources

    settings = Settings(queue=queue, timeout=timeout, worker_timeout=worker_timeout, prepare=prepare, batch=batch)
    tls = _tls(tls_ca, tls_cert, tls_key)
    quote = None if attested is None else quote_of_this_world()
    listen = Listen(http=http, grpc=grpc, attested=attested, quote=quote, tls=tls, drain=drain)
    listen.require_possible()
    net = named_model(model, arch, seed)
    integer = integer_of(net, data=data, samples=samples, top_code=top_code, beside=model)
    placements, memory = _placements(integer, placement, plan)
    say(_ground(integer, placements, memory, plan))
    options = () if fault is None else ("--fault", fault, "--seed", str(seed))
    chosen = sources(
        integer,
        worker or ["spawn"],
        sessions=workers,
        settings=settings,
        placements=placements,
        tls=tls,
        options=options,
        memory=memory,
    )
    made = Gateway(
        chosen,
        Signature(shape=integer.input_shape, vocabulary=integer.vocabulary, most=most),
        settings=settings,
        audit=Audit(sys.stderr.write),
        max_body=max_body,
    )
    serve_gateway(made, listen, sessions=len(chosen), ready=_announce)


def _announce(listening: Listening) -> None:
    rpc = "" if listening.grpc is None else f", and for gRPC on port {listening.grpc}"
    attested = "" if listening.attested is None else f", and for attested sessions on {listening.attested}"
    say(f"gateway listens on {listening.http}{rpc}{attested}")


def _tls(authority: Path | None, certificate: Path | None, key: Path | None) -> MutualTls | None:
    from holdfast.shielding import MutualTls

    if authority is None and certificate is None and key is None:
        return None
    if authority is None or certificate is None or key is None:
        raise InvalidConfig("mutual TLS needs all three files", hint="--tls-ca, --tls-cert and --tls-key")
    return MutualTls(authority=authority, certificate=certificate, key=key)


def _placements(integer: IntegerModel, placement: Placement | None, plan: Path | None) -> tuple[Placements, int | None]:
    """Return one word for all layers, or what a plan says of each, and the memory it leaves to masks."""
    from holdfast.shielding.plan_file import read_plan

    if plan is None:
        return (placement or Placement.BLINDED).value, None
    if placement is not None:
        raise UsageError("--plan and --placement contradict each other", hint="the plan says where each layer runs")
    stored = read_plan(plan)
    return stored.placements(integer), stored.mask_memory


def _ground(integer: IntegerModel, placements: Placements, memory: int | None, plan: Path | None) -> str:
    """Return where layers run, under which plan, and with how much memory for masks, in one line."""
    from holdfast.shielding import integer_layers

    where = placements if isinstance(placements, Mapping) else dict.fromkeys(integer_layers(integer), placements)
    parts = []
    for word in dict.fromkeys(where.values()):
        names = [name for name, own in where.items() if own == word]
        parts.append(f"{len(names)} {word} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})")
    under = "without a plan" if plan is None else f"under {plan}"
    masks = "without a limit" if memory is None else f"within {memory:,} bytes a session"
    return f"gateway runs {under}: {', '.join(parts)}; activation codes within {integer.top_code}; masks {masks}"
