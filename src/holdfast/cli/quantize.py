"""``holdfast quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Architecture, Json, emit, make_app, require_other, require_writable, say

app = make_app()


@app.command(epilog="Example: holdfast quantize model/ --format rquant8 --clip 0.1 -o small/")
def quantize(
    model: Annotated[Path, typer.Argument(help="Float model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    format: Annotated[str, typer.Option(help="int8, int4, rquant8, fixed-point:bits=3,signed=false, ...")] = "int8",
    clip: Annotated[float | None, typer.Option(help="Clip weights to [-CLIP, CLIP] first.")] = None,
    at: Annotated[str, typer.Option(help="Which weights, e.g. weights:layer*.")] = "weights",
    arch: Architecture = None,
    json: Json = False,
) -> None:
    """Store weights as real integer codes, with their ranges beside them."""
    from holdfast.models import card, load, manifest_of, save
    from holdfast.quantization import quantize as transform

    require_other(out, model)
    require_writable(out)
    result = transform(load(model, arch=arch), format, clip=clip, at=at)
    save(result, out)
    digest, count = manifest_of(result).digest, len(card(result).lenses)
    say(f"wrote {out}: {count} tensors as {format}\nmodel {digest}")
    if json:
        emit({"model": digest, "folder": str(out), "tensors": count})
