"""``holdfast run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Architecture, Json, Seed, emit, make_app, say

app = make_app()


@app.command(epilog="Example: holdfast run model/ --probes 64 --platform default -o trace/")
def run(
    model: Annotated[Path, typer.Argument(help="Model to run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the trace.")],
    probes: Annotated[int, typer.Option(help="Number of probe inputs.", min=1)] = 64,
    platform: Annotated[
        str, typer.Option(help="default, batch-1, channels-last, onednn-off, bf16, fp16, onednn-avx2, ...")
    ] = "default",
    shape: Annotated[str | None, typer.Option(help="Input shape CxHxW, when the model does not say.")] = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Run a model on known probes and keep the exact bits that come out, with the platform they came from."""
    from holdfast.data import probes as make_probes
    from holdfast.errors import InvalidConfig
    from holdfast.identification import collect_platforms
    from holdfast.models import card, load

    subject = load(model, arch=arch)
    size = tuple(int(side) for side in shape.split("x")) if shape else card(subject).input_shape
    if size is None:
        raise InvalidConfig("the model does not say its input shape", hint="--shape 3x32x32")
    trace = collect_platforms(subject, make_probes(n=probes, shape=size, seed=seed), [platform])[platform]
    trace.save(out)
    say(f"wrote {out}: {probes} outputs on {platform}\nprobes {trace.probe_digest}\nmodel {trace.model_digest}")
    if json:
        emit(
            {"folder": str(out), "probes": trace.probe_digest, "model": trace.model_digest, "platform": trace.platform}
        )
