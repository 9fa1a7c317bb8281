"""``holdfast sign``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app, password_for, say
from holdfast.signing import load_signer, sign_artifact
from holdfast.signing.signers import require_key

app = make_app()


@app.command(epilog="Example: holdfast sign model/ --key file:author.pem")
def sign(
    model: Annotated[Path, typer.Argument(help="Model folder or file.")],
    key: Annotated[str, typer.Option(help="Where the private key is: file:KEY.pem.")],
    signature: Annotated[
        Path | None, typer.Option(help="Where to write; MODEL/model.sig or MODEL.sig by default.")
    ] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    json: Json = False,
) -> None:
    """Sign every file of a model as an OpenSSF model signature (OMS v1.0)."""
    signer = require_key(load_signer(key, password=password_for(password_file)))
    path = sign_artifact(model, signer, out=signature)
    say(f"signed {model} as {path}\nkey {signer.public.fingerprint}")
    if json:
        emit({"signature": str(path), "signer": signer.public.fingerprint})
