"""``holdfast harden``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Architecture, Json, emit, make_app, require_other, require_writable, say, stages
from holdfast.cli._lineage import PasswordFile, Recorder, StepKey

app = make_app()


@app.command(epilog="Example: holdfast harden model/ --calibrate digits --split train -o tough/")
def harden(
    model: Annotated[Path, typer.Argument(help="Model to harden.")],
    calibrate: Annotated[str, typer.Option(help="Data to profile ranges on; never evaluate on it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    at: Annotated[str, typer.Option(help="Guarded sites.")] = "activations",
    slack: Annotated[float, typer.Option(help="Factor that widens the profiled ranges, at least 1.")] = 1.3,
    split: Annotated[str, typer.Option(help="Part of the data.")] = "train",
    arch: Architecture = None,
    key: StepKey = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Add a range guard at every selected site: NaN becomes zero, outliers the nearest bound."""
    from holdfast.data import dataset
    from holdfast.hardening import RangeRestriction, profile
    from holdfast.hardening import harden as transform
    from holdfast.models import card, load, manifest_of, save

    require_other(out, model)
    require_writable(out)
    recorder = Recorder(key, password_file)
    subject, data = load(model, arch=arch), dataset(calibrate, split=split)
    with stages() as announce:
        bounds = profile(subject, data, at=at, progress=announce("profiling"))
    result = transform(subject, RangeRestriction(bounds, slack=slack))
    save(result, out)
    recorder.record(out, model, data)
    digest, count = manifest_of(result).digest, len(card(result).guards)
    say(f"wrote {out}: {count} guards\nmodel {digest}")
    if json:
        emit({"model": digest, "folder": str(out), "guards": count})
