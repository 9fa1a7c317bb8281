"""``holdfast serve``: run one of Holdfast's long-lived processes."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import make_app

app = make_app()


class Service(StrEnum):
    """What can be served."""

    WORKER = "worker"


@app.command(
    epilog="Example: holdfast serve worker --socket /run/holdfast/worker.sock; "
    'then holdfast.shield(model, worker="unix:/run/holdfast/worker.sock").'
)
def serve(
    service: Annotated[Service, typer.Argument(help="worker: multiplies for shielded sessions of others.")],
    socket: Annotated[Path, typer.Option(help="Where to listen (AF_UNIX); must not be in use.")],
    fault: Annotated[str | None, typer.Option(help="Lie in every answer, e.g. bit-flip; for drills.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the fault.", min=0)] = 0,
    once: Annotated[bool, typer.Option(help="Stop after the first session.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of the products.", min=1)] = 1,
    shared: Annotated[bool, typer.Option("--shared", help="Take sessions over shared memory (shared:PATH).")] = False,
    user: Annotated[str | None, typer.Option(help="Become this user before listening; needs root.")] = None,
    device: Annotated[str, typer.Option(help="Where the products run: cpu, or cuda.")] = "cpu",
) -> None:
    """Serve the untrusted half of shielded sessions until interrupted or terminated.

    The worker sees int8 weights and blinded values, or int8 codes of layers placed as verified: no scales, no secrets.
    """
    from holdfast.services import worker

    def ready() -> None:
        print(f"{service.value} listens on {socket}", file=sys.stderr)

    worker.end_when_terminated()
    settings = worker.Service(
        fault=fault, seed=seed, once=once, threads=threads, shared=shared, user=user, device=device
    )
    worker.serve(socket, settings, ready=ready)
