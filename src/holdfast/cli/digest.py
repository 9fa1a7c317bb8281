"""``holdfast digest``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli._common import Json, emit, make_app, printable
from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_tree
from holdfast.evidence.tree import Links

app = make_app()


@app.command(epilog="Example: holdfast digest model/")
def digest(
    path: Annotated[Path, typer.Argument(help="File or folder.")],
    oms: Annotated[
        bool, typer.Option("--oms", help="Print the root digest that an OpenSSF model signature would name.")
    ] = False,
    ignore: Annotated[list[str] | None, typer.Option(help="Path to leave out (with --oms); repeatable.")] = None,
    allow_symlinks: Annotated[bool, typer.Option(help="Follow links to files inside the model or its cache.")] = False,
    dialect: Annotated[
        str, typer.Option(help="Order of the files (with --oms): specification or model-signing.")
    ] = "specification",
    json: Json = False,
) -> None:
    """Print size, SHA-256 and BLAKE3 of every file, from one read pass each.

    The root digest of OpenSSF model signatures does not depend on the names of the files.
    """
    if oms:
        _print_root(
            path, {"ignore": frozenset(ignore or ()), "allow_symlinks": allow_symlinks, "dialect": dialect}, json
        )
        return
    if ignore or dialect != "specification":
        raise InvalidConfig("--ignore and --dialect go with --oms")
    files = digest_tree(path, links=Links.INSIDE if allow_symlinks else Links.REFUSE)
    if json:
        emit({name: dataclasses.asdict(item) for name, item in files.items()})
        return
    for name, item in files.items():
        print(f"{item.blake3}  sha256:{item.sha256}  {item.size:>12}  {printable(path.name if name == '.' else name)}")


def _print_root(path: Path, settings: dict[str, Any], json: bool) -> None:
    from holdfast.signing.artifact import list_artifact  # keys and signatures are not needed for plain digests
    from holdfast.signing.oms import Serialization, write_statement

    name, listing = list_artifact(path, Serialization(**settings))
    root = write_statement(name, listing).subjects[0].digest["sha256"]
    if json:
        emit({"name": name, "sha256": root, "files": len(listing.files)})
        return
    print(f"sha256:{root}")
