"""``holdfast oci``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, counted, emit, make_app, say

app = make_app()
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Talk without TLS, as to a registry on this very machine.")
]
_EXAMPLE = "localhost:5000/team/resnet20:v1"


def _judge(policy: Path, model: Path) -> None:
    from holdfast.policy import check

    check(model, policy)


def _announce(name: str, size: int) -> None:
    say(f"  {name}  {size:,} bytes")


@app.callback(epilog=f"Example: holdfast oci push model/ {_EXAMPLE}")
def oci() -> None:
    """Ship signed models through OCI registries."""


@app.command(epilog=f"Example: holdfast oci push model/ {_EXAMPLE} --plain-http")
def push(
    model: Annotated[Path, typer.Argument(help="Signed model: a folder with model.sig, or a file with its .sig.")],
    reference: Annotated[str, typer.Argument(help="HOST/NAME:TAG.")],
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """Push a signed model: files as layers, signatures and lineage as referrers."""
    from holdfast.distribution import push as push_model

    done = push_model(model, reference, plain_http=plain_http, progress=_announce)
    what = f"{counted(len(done.files), 'file')} and {counted(len(done.attached), 'attachment')}"
    say(f"pushed {what}\n{reference} is {done.digest}")
    if json:
        emit({"reference": reference, "digest": done.digest, "files": [*done.files], "attached": [*done.attached]})


@app.command(epilog=f"Example: holdfast oci pull {_EXAMPLE} model/ --trust author.pub --plain-http")
def pull(
    reference: Annotated[str, typer.Argument(help="HOST/NAME:TAG, or HOST/NAME@sha256:DIGEST to pin it.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; it appears only when everything in it verifies.")],
    trust: Annotated[list[str], typer.Option(help="Who must have signed; repeatable, all of them must have.")],
    policy: Annotated[Path | None, typer.Option(help="Policy it must satisfy, too, before it appears.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Most bytes to fetch; what the disk holds by default.", min=0)
    ] = None,
    plain_http: PlainHttp = False,
    json: Json = False,
) -> None:
    """Pull a model and verify it before anybody can see it."""
    from holdfast.distribution import pull as pull_model

    accept = None if policy is None else partial(_judge, policy)
    done = pull_model(
        reference, out, trust=[*trust], plain_http=plain_http, progress=_announce, accept=accept, limit=limit
    )
    say(f"verified: {out}, {counted(len(done.files), 'file')}, signed by {done.proof.signer}")
    say(f"{reference} is {done.digest}")
    if json:
        names = {"files": [*done.files], "attached": [*done.attached]}
        emit({"path": str(out), "digest": done.digest, "signer": done.proof.signer} | names)
