"""``holdfast keyset``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast._files import make_folder, write_atomic
from holdfast.cli._common import Json, emit, make_app, password_for, say
from holdfast.errors import InvalidConfig
from holdfast.evidence.statement import Statement
from holdfast.policy.plan import next_edition
from holdfast.signing import load_signer
from holdfast.signing.envelope import read_envelope
from holdfast.signing.marks import Marks
from holdfast.signing.rotation import KeySet, follow, parse_key_set, sign_key_set
from holdfast.signing.signers import require_key
from holdfast.signing.times import write_time
from holdfast.signing.trusts import require_threshold
from holdfast.signing.trusts.keyset import read_editions

app = make_app()
Place = Annotated[Path, typer.Argument(help="Folder of all editions, 1.bundle.json and on.")]
Roots = Annotated[list[str], typer.Option(help="Pinned root of the first edition there; repeatable, all of them.")]


@app.callback(epilog="Example: holdfast keyset sign keys/ plan.toml --key file:root.pem")
def keyset() -> None:
    """Keep signed sets of keys, each edition of which hands over to the next."""


@app.command(epilog="Example: holdfast keyset sign keys/ plan.toml --key file:old.pem --key file:new.pem")
def sign(
    place: Place,
    plan: Annotated[Path, typer.Argument(help="Plan (TOML): name, roots, threshold, lifetime, [[key]] tables.")],
    key: Annotated[list[str], typer.Option(help="Root key, file:KEY.pem; repeatable: the new roots and the old.")],
    password_file: Annotated[str | None, typer.Option(help="File with the keys' password (- asks).")] = None,
    json: Json = False,
) -> None:
    """Sign the next edition; nothing is written unless it is a valid step from the one before."""
    editions = list(read_editions(place)) if place.is_dir() and any(place.iterdir()) else []
    before = parse_key_set(Statement.from_bytes(read_envelope(editions[-1]).payload)) if editions else None
    made = next_edition(plan, before)
    password = password_for(password_file)
    signers = [require_key(load_signer(item, password=password)) for item in key]
    if len({signer.public.fingerprint for signer in signers}) != len(signers):
        raise InvalidConfig("a root key is given twice")
    data = sign_key_set(made, *signers)
    anchor = made.root_trust if before is None else before.root_trust
    follow([*editions[-1:], data], anchor)  # what a verifier will do
    write_atomic(make_folder(place) / f"{made.edition.version}.bundle.json", data)
    _say(made)
    if json:
        emit(made.to_json())


@app.command(epilog="Example: holdfast keyset show keys/")
def show(place: Place, json: Json = False) -> None:
    """Print what the newest edition says, without asking who signed it."""
    found = parse_key_set(Statement.from_bytes(read_envelope(list(read_editions(place))[-1]).payload))
    say("not verified: this only shows what the file says")
    _say(found)
    if json:
        emit(found.to_json() | {"verified": False})


@app.command(epilog="Example: holdfast keyset verify keys/ --root root.pub")
def verify(
    place: Place,
    root: Roots,
    remember: Annotated[Path | None, typer.Option(help="File of versions seen; an older one is refused.")] = None,
    json: Json = False,
) -> None:
    """Verify every step from the pinned roots to the newest edition, and that it is current."""
    found = follow(read_editions(place), require_threshold([*root]))
    if remember is not None:
        Marks(remember).remember(found.mark)
    say("verified: every step, from the pinned roots on")
    _say(found)
    if json:
        emit(found.to_json() | {"verified": True})


def _say(found: KeySet) -> None:
    edition = found.edition
    say(f"{found.name!r} version {edition.version}, valid until {write_time(edition.expires)}")
    say(f"  {found.threshold} of {len(found.roots)} roots hand over")
    for item in found.keys:
        span = f"{write_time(item.not_before)} to {write_time(item.not_after)}"
        say(f"  {item.key.fingerprint}: {', '.join(item.roles)} called {', '.join(item.names)}, {span}")
