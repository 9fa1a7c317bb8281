"""``holdfast campaign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Architecture, DataSpec, Json, Seed, emit, make_app, say, stages

app = make_app()


@app.command(
    epilog="Example: holdfast campaign model/ --data digits --fault bit-flip --at activations --trials 1000 -o run/"
)
def campaign(
    model: Annotated[Path, typer.Argument(help="Artifact folder, .safetensors or state dict.")],
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for campaign.sqlite and the record.")],
    fault: Annotated[str, typer.Option(help="Law of one fault: bit-flip, bit-errors:rate=0.001.")] = "bit-flip",
    at: Annotated[
        str, typer.Option(help="Sites: activations, weights:conv*, ... (kind:glob, comma-separated).")
    ] = "activations",
    trials: Annotated[int | None, typer.Option(help="Number of trials; or give --margin.", min=1)] = None,
    margin: Annotated[float | None, typer.Option(help="Half-width wanted for every share, 0..1.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals, 0..1.")] = 0.95,
    executor: Annotated[str, typer.Option(help="inline or processes:N.")] = "inline",
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Inject faults one by one and count what becomes of them.

    An interrupted campaign resumes when the same call is repeated.
    """
    from holdfast.assessment.campaigns import campaign_record
    from holdfast.data import dataset
    from holdfast.models import load

    with stages() as announce:
        record = campaign_record(
            load(model, arch=arch),
            dataset(data),
            fault,
            at=at,
            trials=trials,
            margin=margin,
            confidence=confidence,
            seed=seed,
            executor=executor,
            folder=out,
            progress=announce("trials"),
        )
    for name, item in record.measured.items():
        say(f"{name:<16} {item.value:.4%}  [{item.low:.4%}, {item.high:.4%}]  n = {item.n}")
    if json:
        emit(record)
