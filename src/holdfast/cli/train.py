"""``holdfast train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import DataSpec, Json, Seed, emit, make_app, say, stages

app = make_app()


@app.command(
    epilog="Example: holdfast train --arch digits-cnn --data digits --recipe random-bit-error:rate=0.01 -o robust/"
)
def train(
    arch: Annotated[str, typer.Option(help="Architecture to train from scratch, or --start.")],
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    recipe: Annotated[str, typer.Option(help="standard or random-bit-error, with options.")] = "standard",
    start: Annotated[Path | None, typer.Option(help="Model to go on from instead of fresh weights.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", min=1)] = 60,
    lr: Annotated[float, typer.Option(help="Initial learning rate.")] = 0.1,
    batch_size: Annotated[int, typer.Option(help="Samples per step.", min=1)] = 64,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train on the train split; bit errors, data order and initial weights come from separate streams of the seed."""
    from holdfast.data import dataset
    from holdfast.execution import accuracy
    from holdfast.models import build_architecture, load, manifest_of, save
    from holdfast.training import recipes
    from holdfast.training import train as run
    from holdfast.training.recipes import Schedule

    model = build_architecture(arch, seed=seed) if start is None else load(start, arch=arch)
    chosen = recipes.build(recipe, schedule=Schedule(epochs, lr, batch_size))
    with stages() as announce:
        result = run(model, dataset(data, split="train"), chosen, seed=seed, progress=announce("epochs"))
    save(result, out)
    share = accuracy(result, dataset(data, split="test"))
    digest = manifest_of(result).digest
    say(f"wrote {out}: test accuracy {share.value:.2%} [{share.low:.2%}, {share.high:.2%}], n = {share.n}")
    if json:
        emit({"model": digest, "folder": str(out), "accuracy": share.measurement().to_json()})
