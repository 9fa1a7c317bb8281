"""``holdfast harden``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import (
    Architecture,
    Json,
    counted,
    emit,
    make_app,
    require_other,
    require_writable,
    say,
    stages,
)
from holdfast.cli._lineage import PasswordFile, Recorder, StepKey
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset
    from holdfast.hardening import Hardening

app = make_app()
_PLAIN_AT, _PLAIN_SLACK = "activations", 1.3


@app.command(epilog="Example: holdfast harden model/ --guard range:per=channel --calibrate digits -o tough/")
def harden(
    model: Annotated[Path, typer.Argument(help="Model to harden.")],
    calibrate: Annotated[str, typer.Option(help="Data to profile ranges on; never evaluate on it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    guard: Annotated[
        list[str] | None,
        typer.Option(
            help="What to add, again for more: range:per=channel,action=zero,slack=1.3, preset:maximals. "
            "If not given, a range guard at every activation."
        ),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Guarded sites without --guard: all activations if not given.")] = None,
    slack: Annotated[
        float | None, typer.Option(help="Factor that widens the ranges without --guard: 1.3 if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="Part of the data.")] = "train",
    arch: Architecture = None,
    key: StepKey = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Add guards, calibrated on clean data, to a model: NaN becomes zero, outliers the nearest bound, or as asked."""
    from holdfast.data import dataset
    from holdfast.execution.fit import require_fit
    from holdfast.hardening import harden as transform
    from holdfast.models import card, load, manifest_of, save

    require_other(out, model)
    require_writable(out)
    if guard and (at is not None or slack is not None):
        raise UsageError("--guard says where and how much itself", hint="write --guard range:at=...,slack=...")
    recorder = Recorder(key, password_file)
    subject, data = load(model, arch=arch), dataset(calibrate, split=split)
    require_fit(subject, data)
    hardenings = _guarded(guard, subject, data) if guard else [_everywhere(subject, data, at, slack)]
    result = transform(subject, *hardenings)
    save(result, out)
    recorder.record(out, model, data)
    digest, count = manifest_of(result).digest, len(card(result).guards)
    say(f"wrote {out}: {counted(count, 'guard')}\nmodel {digest}")
    if json:
        emit({"model": digest, "folder": str(out), "guards": count})


def _guarded(specs: list[str], model: nn.Module, data: Dataset) -> list[Hardening]:
    """Return what the specifications name; all are read before anything is calibrated."""
    from holdfast.hardening import method_of

    found = [method_of(spec) for spec in specs]
    return [item.calibrated(model, data) for item in found]


def _everywhere(model: nn.Module, data: Dataset, at: str | None, slack: float | None) -> Hardening:
    from holdfast.hardening import RangeRestriction, profile

    with stages() as announce:
        bounds = profile(model, data, at=at or _PLAIN_AT, progress=announce("profiling"))
    return RangeRestriction(bounds, slack=_PLAIN_SLACK if slack is None else slack)
