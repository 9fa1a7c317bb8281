"""``holdfast digest``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app
from holdfast.evidence.digest import digest_tree

app = make_app()


@app.command(epilog="Example: holdfast digest model/")
def digest(
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    json: Json = False,
) -> None:
    """Print size, SHA-256 and BLAKE3 of every file, from one read pass each."""
    files = digest_tree(path)
    if json:
        emit({name: dataclasses.asdict(item) for name, item in files.items()})
        return
    for name, item in files.items():
        print(f"{item.blake3}  sha256:{item.sha256}  {item.size:>12}  {path.name if name == '.' else name}")
