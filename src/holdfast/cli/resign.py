"""``holdfast resign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, counted, emit, make_app, password_for, say
from holdfast.errors import UsageError
from holdfast.evidence.tree import Links
from holdfast.signing import load_signer
from holdfast.signing.resign import resign as resign_model

app = make_app()


@app.command(epilog="Example: holdfast resign model/ --key file:author.pem --trust author.pub")
def resign(
    model: Annotated[Path, typer.Argument(help="Signed model folder or file that has changed since.")],
    key: Annotated[str, typer.Option(help="Where the private key is: file:KEY.pem.")],
    trust: Annotated[list[str], typer.Option(help="Who must have signed the old manifest; repeatable.")],
    full: Annotated[bool, typer.Option("--full", help="Read everything again.")] = False,
    sample: Annotated[
        str | None, typer.Option(help="Part of what did not change to read again all the same, such as 5%.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Version of the model; one more than before by default.")] = None,
    signature: Annotated[Path | None, typer.Option(help="The bundle, if not in its usual place.")] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Path to leave unsigned; repeatable; as before by default.")
    ] = None,
    links: Annotated[Links, typer.Option(help="Links to follow: none, those of a Hugging Face cache, or inside.")] = (
        Links.REFUSE
    ),
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    json: Json = False,
) -> None:
    """Sign a changed model again, reading only what changed, and a random part of the rest.

    The old manifest must verify first. A file counts as unchanged only if this machine remembers having hashed it;
    so the first time everything is read.
    """
    signer = load_signer(key, password=password_for(password_file))
    part = None if sample is None else _part(sample)
    done = resign_model(
        model, signer, list(trust), full=full, sample=part, version=version, ignore=ignore,
        signature=signature, links=links,
    )  # fmt: skip
    say(
        f"signed {model} as {done.path}, version {done.manifest.version}: {counted(len(done.hashed), 'file')} read, "
        f"{len(done.reused)} as signed before, {done.sampled:,} bytes of these read again"
    )
    if json:
        emit(
            {
                "signature": str(done.path),
                "version": done.manifest.version,
                "model_id": done.manifest.model_id,
                "hashed": list(done.hashed),
                "reused": list(done.reused),
                "sampled_bytes": done.sampled,
            }
        )


def _part(text: str) -> float:
    """Read ``1%`` or ``0.01``."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"--sample {text!r} is no part", hint="write 1% or 0.01") from None
