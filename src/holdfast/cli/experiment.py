"""``holdfast experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli._common import Json, Seed, counted, emit, make_app, password_for, say, stages
from holdfast.cli._lineage import PasswordFile, StepKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.training.experiments import Experiment

app = make_app()
_EXAMPLE = "Example: holdfast experiment run experiments/digits.toml -o results/"

File = Annotated[Path, typer.Argument(help="The experiment, a TOML file.")]
Only = Annotated[list[str] | None, typer.Option(help="Run the arms of this name or pattern, as m8-*; repeatable.")]
ScaleName = Annotated[str, typer.Option(help="full, or a smaller scale that the file defines.")]


@app.callback(epilog=_EXAMPLE)
def experiment() -> None:
    """Train and measure what a paper did, with its published values beside the measured ones."""


@app.command(epilog=_EXAMPLE)
def run(
    file: File,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for models, results.json and table.md.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set, when it is read from files.")] = None,
    only: Only = None,
    scale: ScaleName = "full",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data instead of the file's.", min=1)] = None,
    device: Annotated[str, typer.Option(help="Where networks compute: cpu, cuda, cuda:1.")] = "cpu",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of products and convolutions in training.")
    ] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the networks that are trained.")] = False,
    graphs: Annotated[bool, typer.Option("--graphs", help="CUDA graphs of the passes: faster for small nets.")] = False,
    seed: Seed = 0,
    key: StepKey = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Run every arm of an experiment.

    An interrupted run goes on when the same call is repeated.
    """
    from holdfast.signing import load_signer
    from holdfast.training.experiments import rows, run_experiment

    chosen = _chosen(file, only, scale, epochs)
    signer = None if key is None else load_signer(key, password=password_for(password_file))
    with stages() as announce:
        results = run_experiment(
            chosen,
            out,
            root=data,
            seed=seed,
            device=device,
            precision=precision,
            compile=compile,
            graphs=graphs,
            announce=announce,
            signer=signer,
            finished=lambda record: _show(rows(record, chosen.rates)),
        )
    say(f"wrote {out}/results.json and {out}/table.md")
    if json:
        emit(results)


@app.command(epilog="Example: holdfast experiment show experiments/digits.toml")
def show(file: File, only: Only = None, scale: ScaleName = "full", json: Json = False) -> None:
    """List the arms of an experiment and what is published for them, without running anything."""
    from holdfast.training.experiments.arms import published

    chosen = _chosen(file, only, scale, None)
    size = f"{counted(len(chosen.arms), 'arm')}, {counted(chosen.schedule.epochs, 'epoch')} each"
    say(f"{chosen.title or chosen.name}: {size}")
    for arm in chosen.arms:
        clean = "" if arm.published is None else f"published clean error {arm.published.clean:g} %"
        say(f"  {arm.name:<24} {arm.title:<28} {clean}".rstrip())
    if json:
        arms = {arm.name: published(chosen, arm) for arm in chosen.arms}
        emit({"experiment": chosen.name, "scale": chosen.scale, "published": arms})


def _chosen(file: Path, only: list[str] | None, scale: str, epochs: int | None) -> Experiment:
    from holdfast.training.experiments import read_experiment

    found = read_experiment(file).at_scale(scale)
    found = found.only(only) if only else found
    return found.with_epochs(epochs) if epochs else found


def _show(table: Sequence[Sequence[str]]) -> None:
    """Say the rows of one arm."""
    for arm, at, after, either, interval, printed, difference in table:
        place = at if at == "clean" else f"p = {at} %"
        beside = f"published {printed} ({difference})" if printed else ""
        say(f"{arm:<24} {place:<11} error {either or after:>6} % [{interval}]  {beside}".rstrip())
