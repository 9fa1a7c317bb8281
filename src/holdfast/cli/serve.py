"""``holdfast serve``: run one of Holdfast's long-lived processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import make_app
from holdfast.cli._serve_gateway import EPILOG, gateway
from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from holdfast.services import worker

app = make_app()
app.command("gateway", epilog=EPILOG)(gateway)


@app.callback(epilog="Example: holdfast serve gateway model.safetensors --data digits --worker spawn")
def serve() -> None:
    """Run one of Holdfast's long-lived processes."""


@app.command(
    "worker",
    epilog="Example: holdfast serve worker --socket /run/holdfast/worker.sock; "
    'then holdfast.shield(model, worker="unix:/run/holdfast/worker.sock").',
)
def serve_worker(
    socket: Annotated[Path | None, typer.Option(help="Where to listen (AF_UNIX); must not be in use.")] = None,
    grpc: Annotated[str | None, typer.Option(help="Instead: HOST:PORT, for other machines, over mutual TLS.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="Authority that vouches for sessions (PEM).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of this worker (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, readable by its owner only (PEM).")] = None,
    fault: Annotated[str | None, typer.Option(help="Lie in every answer, e.g. bit-flip; for drills.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fault.", min=0)] = 0,
    once: Annotated[bool, typer.Option(help="Stop after the first session.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of the products.", min=1)] = 1,
    shared: Annotated[bool, typer.Option("--shared", help="Take sessions over shared memory (shared:PATH).")] = False,
    user: Annotated[str | None, typer.Option(help="Become this user before listening; needs root.")] = None,
    device: Annotated[str, typer.Option(help="Where the products run: cpu, cuda, or cuda:1.")] = "cpu",
    device_memory: Annotated[
        int | None, typer.Option(help="Most bytes to take of a CUDA device. [default: all]", min=1)
    ] = None,
) -> None:
    """Serve the untrusted half of shielded sessions until interrupted or terminated.

    The worker sees int8 weights and blinded values, or int8 codes of layers placed as verified: no scales, no secrets.
    """
    from holdfast.services import process, worker

    process.end_when_terminated()
    worker.speak()
    settings = worker.Service(
        fault=fault,
        seed=seed,
        once=once,
        threads=threads,
        shared=shared,
        user=user,
        device=device,
        device_memory=device_memory,
    )
    if grpc is not None:
        _serve_remote(grpc, settings, (tls_ca, tls_cert, tls_key), socket)
        return
    if socket is None:
        raise InvalidConfig("where to listen?", hint="pass --socket PATH, or --grpc HOST:PORT with --tls-*")

    def ready() -> None:
        print(f"worker listens on {socket}", file=sys.stderr)

    worker.serve(socket, settings, ready=ready)


def _serve_remote(
    address: str, settings: worker.Service, files: tuple[Path | None, Path | None, Path | None], socket: Path | None
) -> None:
    from holdfast.services.remote import serve_remote
    from holdfast.shielding import MutualTls

    authority, certificate, key = files
    if authority is None or certificate is None or key is None:
        raise InvalidConfig("a worker for other machines needs --tls-ca, --tls-cert and --tls-key")
    if socket is not None or settings.shared or settings.user is not None or settings.once:
        raise InvalidConfig("--grpc goes without --socket, --shared, --user and --once")
    tls = MutualTls(authority=authority, certificate=certificate, key=key)
    host = address.rpartition(":")[0]
    serve_remote(address, tls, settings, ready=lambda port: print(f"worker listens on {host}:{port}", file=sys.stderr))
