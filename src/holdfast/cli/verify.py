"""``holdfast verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app, say
from holdfast.signing import verify as verify_subject

app = make_app()


@app.command(epilog="Example: holdfast verify model/ --trust author.pub")
def verify(
    path: Annotated[Path, typer.Argument(help="Signed model, or assessment folder with a passport.")],
    trust: Annotated[Path | None, typer.Option(help="Public key (PEM) that must have signed.")] = None,
    signature: Annotated[Path | None, typer.Option(help="The bundle, if it is not in its usual place.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="File you agree to leave unsigned; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Verify a signature over the very files that are there; exit 1 names what differs.

    A passport can be verified without --trust: that shows that nothing changed since it was signed, not who signed.
    """
    proof = verify_subject(path, signature, trust=trust, ignore=ignore or ())
    count = len(proof.statement.predicate.get("resources", proof.statement.subjects))
    say(f"verified: {path}, {count} files, signed by {proof.signer}")
    if proof.self_signed:
        say("note: verified with the key in the folder itself: nothing changed, but nobody vouches for the signer")
    if json:
        emit({"path": str(path), "files": count, "signer": proof.signer, "self_signed": proof.self_signed})
