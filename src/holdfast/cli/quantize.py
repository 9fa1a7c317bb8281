"""``holdfast quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Architecture, Json, counted, emit, make_app, require_other, require_writable, say
from holdfast.cli._lineage import PasswordFile, Recorder, StepKey

app = make_app()
_TOKENIZER = ("tok*.bin", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt")  # llama2.c, transformers


@app.command(epilog="Example: holdfast quantize model/ --format rquant8 --clip 0.1 -o small/")
def quantize(
    model: Annotated[Path, typer.Argument(help="Float model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Artifact folder to write.")],
    format: Annotated[str, typer.Option(help="int8, int4, rquant8, fixed-point:bits=3,signed=false, ...")] = "int8",
    clip: Annotated[float | None, typer.Option(help="Clip weights to [-CLIP, CLIP] first.")] = None,
    at: Annotated[str, typer.Option(help="Which weights, e.g. weights:layer*.")] = "weights",
    arch: Architecture = None,
    key: StepKey = None,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Store weights as real integer codes, with their ranges beside them. A tokenizer beside MODEL is copied."""
    from holdfast.models import card, load, manifest_of, save
    from holdfast.quantization import quantize as transform

    require_other(out, model)
    require_writable(out)
    recorder = Recorder(key, password_file)
    result = transform(load(model, arch=arch), format, clip=clip, at=at)
    save(result, out)
    _copy_tokenizer(model, out)
    recorder.record(out, model)
    digest, count = manifest_of(result).digest, len(card(result).lenses)
    say(f"wrote {out}: {counted(count, 'tensor')} as {format}\nmodel {digest}")
    if json:
        emit({"model": digest, "folder": str(out), "tensors": count})


def _copy_tokenizer(model: Path, out: Path) -> None:
    """Copy what turns text into tokens, without which a language model cannot be evaluated."""
    from holdfast._files import read_bytes, write_atomic

    found = {file for pattern in _TOKENIZER for file in model.glob(pattern) if file.is_file()}
    for file in sorted(found) if model.is_dir() else ():
        write_atomic(out / file.name, read_bytes(file, "tokenizer"))
