"""``holdfast keygen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast._files import write_atomic
from holdfast.cli._common import Json, emit, make_app, password_for, say
from holdfast.signing.keys import generate_key, write_key

app = make_app()


@app.command(epilog="Example: holdfast keygen author   # writes author.pem and author.pub")
def keygen(
    name: Annotated[Path, typer.Argument(help="NAME.pem gets the private key, NAME.pub the public one.")],
    kind: Annotated[str, typer.Option(help="p256, p384, p521 or ed25519.")] = "p256",
    password_file: Annotated[str | None, typer.Option(help="Encrypt with the password in this file (- asks).")] = None,
    json: Json = False,
) -> None:
    """Make a signing key; an existing one is never overwritten."""
    signer = generate_key(kind)
    private, public = name.with_name(f"{name.name}.pem"), name.with_name(f"{name.name}.pub")
    write_key(signer, private, password=password_for(password_file))
    write_atomic(public, signer.public.pem)
    say(f"wrote {private} (keep it secret) and {public}\nfingerprint {signer.public.fingerprint}")
    if json:
        emit({"private": str(private), "public": str(public), "fingerprint": signer.public.fingerprint})
