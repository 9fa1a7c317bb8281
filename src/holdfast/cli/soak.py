"""``holdfast soak``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import Architecture, Json, Seed, emit, make_app, say
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset
    from holdfast.soak.run import SoakReport

app = make_app()


@app.command(
    epilog="Example: holdfast soak model/ --data digits --hours 8 -o soak/\n\n"
    "Example: holdfast soak --kernels gemm,attention,norm --devices cpu --hours 1 -o selftest/\n\n"
    "Example: holdfast soak model/ --data digits --hours 72 --mirror udp:10.0.0.2:1024 -o beam/"
)
def soak(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the golden file, the logs and the record.")],
    model: Annotated[
        Path | None, typer.Argument(help="Artifact folder or .safetensors; none with --kernels alone.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data: digits, cifar10:ROOT, folder:PATH.")] = None,
    hours: Annotated[float | None, typer.Option(help="How long; or give --iterations.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Of each device, over everything it computes.", min=1)] = None,
    kernels: Annotated[str | None, typer.Option(help="Also, or only: gemm,attention,norm.")] = None,
    devices: Annotated[
        str, typer.Option(help="cpu (every usable core), a number of them, cpu:0,cpu:3, cuda:0.")
    ] = "cpu",
    samples: Annotated[int, typer.Option(help="Of the data, computed over and over.", min=1)] = 40,
    batch_size: Annotated[int, typer.Option(help="Samples in one pass.", min=1)] = 4,
    patience: Annotated[float, typer.Option(help="Seconds without a finished iteration that are a hang.")] = 30.0,
    audit: Annotated[float, typer.Option(help="Seconds between looks at all stored tensors.")] = 60.0,
    name: Annotated[
        str | None, typer.Option(help="Of the model in logs; a hardened one of the same name is compared.")
    ] = None,
    log_dir: Annotated[Path | None, typer.Option(help="Where logs go. [default: OUT/logs]")] = None,
    mirror: Annotated[str | None, typer.Option(help="Send every line to a supervisor too: udp:HOST:PORT.")] = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Compute the same thing for hours, hold every output against the golden bits, and triage what differs.

    A watchdog starts one worker for each core or accelerator; death and silence are counted as DUE and mended by a
    new worker. Exit 1 if anything went wrong with the machine. The same call goes on with the same golden file.
    """
    from holdfast.soak.run import Soak
    from holdfast.soak.run import soak as run_soak

    how = Soak(
        devices=devices, hours=hours, iterations=iterations, samples=samples, batch_size=batch_size, patience=patience,
        audit_every=audit, mirror=mirror, log_dir=log_dir, seed=seed,
    )  # fmt: skip
    loaded, images = _subject(model, data, arch)
    names = [name.strip() for name in kernels.split(",") if name.strip()] if kernels else []
    called = name or ("model" if model is None else model.resolve().name)
    with _live() as progress:
        report = run_soak(
            how, out=out, model=loaded, data=images, name=called, kernels=names, progress=progress, announce=say
        )
    _tell(report, out)
    if json:
        emit(report.record)
    return 130 if report.interrupted else int(bool(report.events))


def _subject(model: Path | None, data: str | None, arch: str | None) -> tuple[nn.Module | None, Dataset | None]:
    if (model is None) != (data is None):
        raise UsageError("a model computes on --data, and data needs a MODEL", hint="give both, or --kernels alone")
    if model is None or data is None:
        return None, None
    from holdfast.data import dataset
    from holdfast.execution.fit import require_fit
    from holdfast.models import load

    loaded, images = load(model, arch=arch), dataset(data)
    require_fit(loaded, images)
    return loaded, images


@contextmanager
def _live() -> Iterator[Callable[[int, Mapping[str, int]], None]]:
    """Show iterations and events while it runs."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # without a thread of its own: workers are forked while it shows
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("starting", total=None)

        def update(iterations: int, events: Mapping[str, int]) -> None:
            bar.update(task, description=f"{iterations:,} iterations, {_events(events) or 'nothing wrong'}")
            bar.refresh()

        yield update


def _events(events: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(events.items()) if count)


def _tell(report: SoakReport, out: Path) -> None:
    for device, tally in report.tallies.items():
        state = "; given up: see events.jsonl" if tally.given_up else ""
        say(f"{device:<8} {tally.iterations:>12,} iterations  {_events(tally.events) or 'nothing wrong'}{state}")
    if report.analysis is not None:
        level = f"{report.analysis.confidence:.0%}"
        for arm in report.analysis.arms:
            due = "" if arm.due is None else f", DUE at most {3600 * arm.due.high:.3g} per hour"
            most = f"SDC at most {3600 * arm.sdc.high:.3g} per hour{due}"
            say(f"{arm.subject}: {arm.seconds:,.1f} s in {arm.sessions} logs: {most} ({level})")
    if report.before.missing:
        say(f"not readable here: {', '.join(report.before.missing)}")
    if report.lost:
        say(f"the network refused {report.lost} lines of the mirror; the files have them all")
    say(f"logs: {report.logs}; rates: holdfast logs import {report.logs}")
    if report.interrupted:
        say(f"interrupted; what was done is kept, and the same call goes on in {out}")
