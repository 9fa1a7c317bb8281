"""``holdfast digest``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, emit, make_app
from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_tree

app = make_app()


@app.command(epilog="Example: holdfast digest model/")
def digest(
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    oms: Annotated[
        bool, typer.Option("--oms", help="Print the root digest that an OpenSSF model signature would name.")
    ] = False,
    ignore: Annotated[list[str] | None, typer.Option(help="Path to leave out (with --oms); repeatable.")] = None,
    allow_symlinks: Annotated[bool, typer.Option(help="Follow links to files (with --oms).")] = False,
    json: Json = False,
) -> None:
    """Print size, SHA-256 and BLAKE3 of every file, from one read pass each.

    The root digest of OpenSSF model signatures does not depend on the names of the files.
    """
    if oms:
        _print_root(path, frozenset(ignore or ()), allow_symlinks, json)
        return
    if ignore or allow_symlinks:
        raise InvalidConfig("--ignore and --allow-symlinks go with --oms")
    files = digest_tree(path)
    if json:
        emit({name: dataclasses.asdict(item) for name, item in files.items()})
        return
    for name, item in files.items():
        print(f"{item.blake3}  sha256:{item.sha256}  {item.size:>12}  {path.name if name == '.' else name}")


def _print_root(path: Path, ignore: frozenset[str], links: bool, json: bool) -> None:
    from holdfast.signing.artifact import list_artifact
    from holdfast.signing.oms import Serialization, write_statement

    name, listing = list_artifact(path, Serialization(ignore=ignore, allow_symlinks=links))
    root = write_statement(name, listing).subjects[0].digest["sha256"]
    if json:
        emit({"name": name, "sha256": root, "files": len(listing.files)})
        return
    print(f"sha256:{root}")
