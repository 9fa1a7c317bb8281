"""``holdfast assess``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import Architecture, Json, Seed, emit, make_app, say, stages
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.assessment import Assessment

app = make_app()


@app.command(
    epilog="Example: holdfast assess --demo -o demo\n"
    "Example: holdfast assess resnet20.th --arch cifar-resnet20 --data cifar10:cifar/ -o passport"
)
def assess(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report, the records and the passport.")],
    model: Annotated[Path | None, typer.Argument(help="Artifact folder, .safetensors or state dict.")] = None,
    data: Annotated[str | None, typer.Option(help="Test data: digits, cifar10:ROOT, mnist:ROOT, folder:PATH.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Train a small net on real digits and assess it.")] = False,
    arch: Architecture = None,
    key: Annotated[
        str | None, typer.Option(help="Signing key, file:KEY.pem; without it one is made for this run.")
    ] = None,
    effort: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "standard",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Do the whole job on one model: vouch, sweep bit errors, inject faults, harden, trace the platform, shield.

    Leaves OUT/report.html, OUT/records/, OUT/campaign.sqlite and one signed OUT/passport.bundle.json. Interrupted, it
    goes on where it stopped when called again in the same way.
    """
    if demo == (model is not None):
        raise UsageError("give a model with its data, or --demo", hint="holdfast assess --demo -o demo")
    from holdfast.assessment import assess as run
    from holdfast.assessment import assess_demo

    with stages() as announce:
        if model is None:
            result = assess_demo(out, seed=seed, key=key, announce=announce)
        else:
            if data is None:
                raise UsageError("an assessment needs data", hint="--data cifar10:ROOT or --data folder:PATH")
            from holdfast.data import dataset
            from holdfast.models import load

            subject, test = load(model, arch=arch), dataset(data)
            title, command = (
                f"{model.name}",
                f"holdfast assess {model.name} --data {data.partition(':')[0]} -o {out.name}",
            )
            result = run(
                subject,
                test,
                out=out,
                effort=effort,
                seed=seed,
                key=key,
                title=title,
                command=command,
                statements=model if model.is_dir() else None,
                announce=announce,
            )
    _summarise(result)
    if json:
        emit(result.records["artifact"])


def _summarise(result: Assessment) -> None:
    for name, measure in (
        ("artifact", "clean-accuracy"),
        ("bit-errors", "robust-error@p=0.01"),
        ("fault-campaign", "critical-or-due"),
        ("fault-campaign-hardened", "critical-or-due"),
        ("platform", "identified"),
        ("shield", "detected"),
    ):
        item = result.records[name].measured.get(measure)
        if item is not None:
            say(f"{name:<24} {measure:<20} {item.value:.4f}  [{item.low:.4f}, {item.high:.4f}]  n = {item.n}")
    signer = "an ephemeral key (no --key)" if result.ephemeral else f"key {result.signer[:16]}"
    say(f"report: {result.folder / 'report.html'}\nsigned by {signer}; check with: holdfast verify {result.folder}")
