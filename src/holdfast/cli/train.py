"""``holdfast train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli._common import (
    Architecture,
    DataSpec,
    Json,
    Seed,
    emit,
    make_app,
    require_other,
    require_writable,
    say,
    stages,
)
from holdfast.cli._lineage import PasswordFile, Recorder, StepKey

if TYPE_CHECKING:
    from torch import nn

    from holdfast.training import Recipe

app = make_app()


@app.command(
    epilog="Example: holdfast train digits-cnn --data digits --recipe random-bit-error:rate=0.01,clip=0.5 -o robust/"
)
def train(
    model: Annotated[str, typer.Argument(help="Model to go on from, or architecture to train from fresh weights.")],
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    recipe: Annotated[
        str, typer.Option(help="standard, random-bit-error, alternating, ..., with options.")
    ] = "standard",
    arch: Architecture = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", min=1)] = 60,
    lr: Annotated[float, typer.Option(help="Initial learning rate.")] = 0.1,
    batch_size: Annotated[int, typer.Option(help="Samples per step.", min=1)] = 64,
    schedule: Annotated[
        str, typer.Option(help="More of the schedule: decay=cosine,per=batch,warmup=1,ema=0.9975.")
    ] = "",
    augment: Annotated[
        list[str] | None, typer.Option(help="Augmentation, repeatable: crop:padding=4, flip, cutout:size=16.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of products and convolutions.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model: minutes first, faster then.")] = False,
    graphs: Annotated[bool, typer.Option("--graphs", help="CUDA graphs of the passes: faster for small nets.")] = False,
    every: Annotated[int, typer.Option(help="Epochs from one snapshot to the next.", min=1)] = 1,
    keep: Annotated[int | None, typer.Option(help="Keep the snapshot of every so many epochs.", min=1)] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events as well.")] = False,
    seed: Seed = 0,
    key: StepKey = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Train on the train split, and measure on the test split.

    Snapshots and metrics.jsonl go to OUT.training beside OUT; the same call resumes an interrupted training from there,
    to the same bits. Bit errors, order of the data and initial weights come from separate streams of the seed.
    """
    from holdfast.data import dataset
    from holdfast.data.augmentation import augmentation
    from holdfast.execution import accuracy
    from holdfast.models import manifest_of, save
    from holdfast.signing.lineage.run import byproducts
    from holdfast.training import Compute, Journal
    from holdfast.training import train as run

    require_other(out, model)
    require_writable(out)
    recorder = Recorder(key, password_file)
    chosen = _recipe(recipe, schedule, {"epochs": epochs, "lr": lr, "batch_size": batch_size})
    compute = Compute(device=device, precision=precision, compile=compile, graphs=graphs)
    journal = Journal(folder=f"{out}.training", every=every, keep=keep, tensorboard=tensorboard)
    start, images = _start(model, arch, seed), dataset(data, split="train")
    change = augmentation(augment, images) if augment else None
    with stages() as announce:
        result = run(
            start,
            images,
            chosen,
            seed=seed,
            augment=change,
            compute=compute,
            journal=journal,
            progress=announce("epochs"),
        )
    save(result, out)
    share = accuracy(result, dataset(data, split="test"))
    metrics = {"test-accuracy": share.measurement().to_json()}
    recorder.record(out, _folder(model), images, byproducts=byproducts(journal.chain, metrics))
    say(f"wrote {out}: test accuracy {share.value:.2%} [{share.low:.2%}, {share.high:.2%}], n = {share.n}")
    if json:
        digest = manifest_of(result).digest
        emit({"model": digest, "folder": str(out), "accuracy": share.measurement().to_json()})


def _recipe(spec: str, schedule: str, flags: dict[str, float]) -> Recipe:
    """Return the recipe of ``spec`` with the schedule that its flags and ``schedule`` give."""
    from holdfast._registry import coerce, parse_spec
    from holdfast.errors import InvalidConfig
    from holdfast.training import recipes
    from holdfast.training.recipes import Schedule

    more = coerce(Schedule, parse_spec(f"schedule:{schedule}")[1], what="--schedule")
    for name in flags.keys() & more.keys():
        raise InvalidConfig(f"{name} has a flag of its own", hint=f"write --{name.replace('_', '-')} {more[name]}")
    if "schedule" in parse_spec(spec)[1]:
        raise InvalidConfig("a recipe does not name its schedule", hint="use --epochs, --lr and --schedule")
    return recipes.build(spec, schedule=Schedule(**flags | more))


def _start(spec: str, arch: str | None, seed: int) -> nn.Module:
    """Return the model in a file or folder, or an architecture with fresh weights."""
    from holdfast.errors import UsageError
    from holdfast.evidence.lineage import Step
    from holdfast.models import build_architecture, card, load

    if Path(spec).exists():
        return load(Path(spec), arch=arch)
    if arch is not None:
        raise UsageError(
            f"there is no model {spec} for --arch to describe", hint=f"holdfast train {arch} trains afresh"
        )
    fresh = build_architecture(spec, seed=seed)
    card(fresh).lineage.append(Step("build", {"architecture": spec, "seed": str(seed)}))
    return fresh


def _folder(spec: str) -> Path | None:
    """Return the artifact that a training goes on from, if it is one."""
    return Path(spec) if Path(spec).is_dir() else None
