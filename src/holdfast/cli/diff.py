"""``holdfast diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app, say
from holdfast.evidence.tree import Links
from holdfast.signing.diff import diff as diff_models
from holdfast.signing.diff import explain

app = make_app()


@app.command(epilog="Example: holdfast diff base/ tuned/")
def diff(
    first: Annotated[Path, typer.Argument(help="Model folder or file, or its .sig2 bundle alone.")],
    second: Annotated[Path, typer.Argument(help="The other one.")],
    trust: Annotated[
        list[str] | None, typer.Option(help="Compare what these signed (--trust KEY.pub), without reading the files.")
    ] = None,
    links: Annotated[Links, typer.Option(help="Links to follow: none, those of a Hugging Face cache, or inside.")] = (
        Links.REFUSE
    ),
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when the two differ.")] = False,
    json: Json = False,
) -> None:
    """Say which files and tensors of two models differ, are new, gone, renamed, or merely in another shard."""
    found = diff_models(first, second, trust=list(trust) if trust else None, links=links)
    say("as signed, files not read:" if trust else "as read:")
    if json:
        emit(found.to_json())
    else:
        print("\n".join(explain(found)))
    if exit_code and not found.same_model:
        raise typer.Exit(1)
