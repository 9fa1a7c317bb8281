"""``holdfast inject``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, Seed, emit, make_app, say, stages

app = make_app()


@app.command(epilog="Example: holdfast inject model/ --fault bit-errors:rate=0.001 --seed 7 -o broken/")
def inject(
    model: Annotated[Path, typer.Argument(help="Artifact folder, .safetensors file or folder of shards.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The broken copy, a folder or file like MODEL.")],
    fault: Annotated[str, typer.Option(help="Law of the fault: bit-errors:rate=0.001, bit-flip, ...")],
    at: Annotated[str, typer.Option(help="Which tensors, e.g. weights:model.layers.*.")] = "weights",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a copy of a stored model with faults in its bits, without loading it.

    The same seed breaks the same bits as injection into the loaded model does, however the file is sharded.
    """
    from holdfast.execution import faults
    from holdfast.faults import inject_file

    with stages() as announce:
        done = inject_file(model, out, faults.build(fault), at=at, seed=seed, progress=announce("breaking files"))
    hit = sum(count > 0 for count in done.flipped.values())
    rate = f" (a rate of {done.total / done.population:.3g})" if done.population else ""
    say(f"wrote {out}: {done.total:,} of {done.population:,} bits flipped{rate}")
    say(f"{hit} of {len(done.flipped)} selected tensors changed")
    if json:
        emit({"bits": done.population, "fault": fault, "flipped": dict(done.flipped), "out": str(out), "seed": seed})
