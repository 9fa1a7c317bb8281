"""``holdfast revoke``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from holdfast._files import read_bytes, write_atomic
from holdfast.cli._common import Json, emit, make_app, password_for, say
from holdfast.errors import InvalidConfig
from holdfast.policy.naming import names_of
from holdfast.signing import PublicKey, load_signer, require_threshold, verify_bundle
from holdfast.signing.bundle import Verified
from holdfast.signing.editions import Edition
from holdfast.signing.envelope import read_envelope
from holdfast.signing.marks import Marks
from holdfast.signing.revocation import (
    REASONS,
    Revocation,
    RevocationList,
    parse_revocations,
    sign_revocations,
    verify_revocations,
)
from holdfast.signing.signers import require_key
from holdfast.signing.times import now, read_span, read_time, write_time

app = make_app()
_LIMIT = 64 << 20
List = Annotated[Path, typer.Argument(help="The list: a bundle.")]


@app.callback(epilog="Example: holdfast revoke add revoked.bundle.json key:old.pub --reason retired --key file:sec.pem")
def revoke() -> None:
    """Keep signed lists of keys, certificates, bundles, models and datasets not to rely on."""


@app.command(epilog="Example: holdfast revoke add revoked.bundle.json model:bad/ --reason unsafe --key file:sec.pem")
def add(
    place: List,
    things: Annotated[
        list[str] | None,
        typer.Argument(help="KIND:FILE or KIND:DIGEST; kinds: key, certificate, bundle, model, dataset."),
    ] = None,
    key: Annotated[str, typer.Option(help="Key that signs the list: file:KEY.pem.")] = "",
    reason: Annotated[str, typer.Option(help=f"One of {', '.join(REASONS)}.")] = "withdrawn",
    effective: Annotated[str, typer.Option(help="From when on, 2026-01-31T12:00:00Z; now by default.")] = "",
    lifetime: Annotated[str, typer.Option(help="How long the new edition may be relied on.")] = "30d",
    name: Annotated[str, typer.Option(help="Name of a new list.")] = "revocations",
    trust: Annotated[list[str] | None, typer.Option(help="Who signed the edition before, if not this key.")] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    json: Json = False,
) -> None:
    """Sign the next edition of a list, with these things added; with none, only to renew it."""
    if not key:
        raise InvalidConfig("a list must be signed", hint="--key file:KEY.pem")
    signer = require_key(load_signer(key, password=password_for(password_file)))
    start = read_time(effective, "--effective") if effective else now()
    added = [entry for thing in things or [] for entry in _entries(thing, reason, start)]
    span = read_span(lifetime, "--lifetime")
    if place.exists():
        after = _before(place, trust or signer.public).next(*added, lifetime=span)
    else:
        after = RevocationList.first(name, *added, lifetime=span)
    write_atomic(place, sign_revocations(after, signer))
    _say(after)
    if json:
        emit(after.to_json())


def _entries(thing: str, reason: str, effective: datetime) -> list[Revocation]:
    kind, colon, value = thing.partition(":")
    if not colon:
        raise InvalidConfig(f"{thing!r} does not say what it is", hint="write key:FILE, model:FOLDER, dataset:DIGEST")
    return [Revocation(kind, name, reason, effective) for name in names_of(kind, value)]


def _before(place: Path, trust: list[str] | PublicKey) -> RevocationList:
    """Return the edition that stands in the file, which may have expired."""
    signers = require_threshold([*trust] if isinstance(trust, list) else trust)
    return parse_revocations(verify_bundle(read_bytes(place, "revocation list", limit=_LIMIT), signers).statement)


@app.command(epilog="Example: holdfast revoke show revoked.bundle.json")
def show(place: List, json: Json = False) -> None:
    """Print what a list says, without asking who signed it."""
    from holdfast.evidence.statement import Statement

    envelope = read_envelope(read_bytes(place, "revocation list", limit=_LIMIT))
    found = parse_revocations(Statement.from_bytes(envelope.payload))
    say("not verified: this only shows what the file says")
    _say(found)
    if json:
        emit(found.to_json() | {"verified": False})


@app.command(epilog="Example: holdfast revoke verify revoked.bundle.json --trust security.pub --maximum-age 7d")
def verify(
    place: List,
    trust: Annotated[list[str], typer.Option(help="Who must have signed; repeatable, all of them must have.")],
    maximum_age: Annotated[str, typer.Option(help="How old it may be: 7d, 12h; any age until it expires.")] = "",
    remember: Annotated[Path | None, typer.Option(help="File of versions seen; an older one is refused.")] = None,
    json: Json = False,
) -> None:
    """Verify that a list is signed, current and no older than one seen before."""
    age = read_span(maximum_age, "--maximum-age") if maximum_age else None
    data = read_bytes(place, "revocation list", limit=_LIMIT)
    found, proof = verify_revocations(data, [*trust], maximum_age=age)
    if remember is not None:
        Marks(remember).remember(found.mark)
    _say(found, proof)
    if json:
        emit(found.to_json() | {"verified": True, "signer": proof.signer})


def _say(found: RevocationList, proof: Verified | None = None) -> None:
    edition: Edition = found.edition
    say(f"{found.name!r} version {edition.version}, valid until {write_time(edition.expires)}")
    if proof is not None:
        say(f"verified: signed by {proof.signer}")
    for entry in found.entries:
        say(f"  {entry.kind} {entry.id}: {entry.reason} from {write_time(entry.effective)} on")
