"""``holdfast lineage``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli._common import Json, counted, emit, make_app, password_for, printable, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.signing.lineage import VerifiedLineage
    from holdfast.signing.trusts import TrustSource

app = make_app()
_LIMIT = 64 << 20  # bytes of a revocation list
_EXAMPLE = "Example: holdfast lineage verify model/ --trust trainer.pub --trust lab.pub --statements data.bundle.json"

Model = Annotated[Path, typer.Argument(help="Artifact folder, model file, or assessment folder with a passport.")]
Trusted = Annotated[
    list[str], typer.Option("--trust", help="Who may sign steps: a public key (PEM); any one of several signs a step.")
]
Origins = Annotated[
    list[str] | None,
    typer.Option("--origins", help="Who may vouch for data and base models; those of --trust by default. Repeatable."),
]
Leaf = Annotated[
    list[str] | None, typer.Option("--leaf", help="Digest (hex) of data or a model to accept as it is; repeatable.")
]
Statements = Annotated[
    list[Path] | None,
    typer.Option("--statements", help="Bundle, or folder of bundles, besides MODEL/lineage; repeatable."),
]
Revoked = Annotated[
    list[str] | None,
    typer.Option("--revoked", help="Digest or key fingerprint (hex) that must not occur in the history; repeatable."),
]
Revocations = Annotated[Path | None, typer.Option("--revocations", help="Signed list of what is revoked.")]
ListTrust = Annotated[
    list[str] | None, typer.Option("--revocation-trust", help="Who must have signed that list: a public key (PEM).")
]


@app.callback(epilog=_EXAMPLE)
def lineage() -> None:
    """Show and verify how a model came to be, and export it as a bill of materials."""


@app.command(epilog=_EXAMPLE)
def verify(
    model: Model,
    trust: Trusted,
    origins: Origins = None,
    leaf: Leaf = None,
    statements: Statements = None,
    revoked: Revoked = None,
    revocations: Revocations = None,
    revocation_trust: ListTrust = None,
    json: Json = False,
) -> None:
    """Walk the signed history of a model back to trusted data and models; exit 1 names the first gap."""
    refused = _refused(revoked, revocations, revocation_trust)
    found = _verified(model, trust, origins, leaf, statements, refused)
    things = counted(len(found.nodes), "thing")
    say(f"verified: {model} has a signed history of {things}, {len(found.leaves)} of them its origins")
    if json:
        from holdfast.signing.lineage.picture import picture_of, to_json

        emit({"model": found.target, "leaves": found.leaves, "signers": found.signers, **to_json(picture_of(found))})


@app.command(epilog="Example: holdfast lineage show model/ --trust trainer.pub")
def show(
    model: Model,
    trust: Annotated[
        list[str] | None, typer.Option(help="Who may sign steps; without it, what the model itself tells.")
    ] = None,
    origins: Origins = None,
    leaf: Leaf = None,
    statements: Statements = None,
    json: Json = False,
) -> None:
    """Show the history as a tree: the model first, what it was made of below. Gaps are shown, not refused."""
    from holdfast.signing.lineage import identify, stored_steps, survey
    from holdfast.signing.lineage.picture import picture_of, picture_of_steps, to_json, tree

    if trust:
        chosen, more = _sources(trust), _sources(origins) if origins else None
        found = survey(model, chosen, leaves=_digests(leaf), origins=more, statements=statements or ())
        picture = picture_of(found)
    else:
        picture = picture_of_steps(stored_steps(model), identify(model).digest["blake3"])
    if json:
        emit(to_json(picture))
        return
    for line in tree(picture) or ["this model tells no history"]:
        print(printable(line))


@app.command(epilog="Example: holdfast lineage export model/ --trust trainer.pub --format cyclonedx -o bom.json")
def export(
    model: Model,
    trust: Trusted,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    format: Annotated[Literal["cyclonedx", "spdx", "dot", "json"], typer.Option(help="What to write.")] = "cyclonedx",
    created: Annotated[str | None, typer.Option(help="Time to state, RFC 3339 in UTC; now by default.")] = None,
    origins: Origins = None,
    leaf: Leaf = None,
    statements: Statements = None,
    revoked: Revoked = None,
    revocations: Revocations = None,
    revocation_trust: ListTrust = None,
    json: Json = False,
) -> None:
    """Write the verified history for other tools; what is not verified is never exported."""
    from holdfast._files import write_atomic
    from holdfast.evidence.digest import digest_bytes
    from holdfast.reporting.bom import exported
    from holdfast.signing.lineage.steps import now

    refused = _refused(revoked, revocations, revocation_trust)
    found = _verified(model, trust, origins, leaf, statements, refused)
    data = exported(found, format, created=created or now())
    write_atomic(out, data)
    say(f"wrote {out}: {counted(len(found.nodes), 'verified thing')} as {format}")
    if json:
        emit({"file": str(out), "format": format, "nodes": len(found.nodes), "blake3": digest_bytes(data)})


@app.command(
    epilog="Example: holdfast lineage vouch --data digits --key file:lab.pem --licence CC-BY-4.0 -o d.bundle.json"
)
def vouch(
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle to write.")],
    key: Annotated[str, typer.Option(help="Where the private key is: file:KEY.pem.")],
    model: Annotated[Path | None, typer.Argument(help="Model folder or file.")] = None,
    data: Annotated[str | None, typer.Option(help="Data instead: digits, cifar10:ROOT, folder:PATH.")] = None,
    split: Annotated[str, typer.Option(help="Part of the data.")] = "train",
    uri: Annotated[str, typer.Option(help="Where it came from.")] = "",
    licence: Annotated[str, typer.Option(help="SPDX expression.")] = "",
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    json: Json = False,
) -> None:
    """Sign that data, or a model without a history, is fit to start from."""
    from holdfast._files import write_atomic
    from holdfast.errors import UsageError
    from holdfast.signing import load_signer, sign_statement
    from holdfast.signing.lineage import origin

    if (model is None) == (data is None):
        raise UsageError("name a model or --data, one of them")
    signer = load_signer(key, password=password_for(password_file))
    if data is not None:
        from holdfast.data import dataset

        statement = origin(dataset(data, split=split), kind="dataset", uri=uri, licence=licence)
    else:
        place = model or Path()
        statement = origin(place, kind="model" if place.is_dir() else "file", uri=uri, licence=licence)
    write_atomic(out, sign_statement(statement, signer))
    subject = statement.subjects[0]
    say(f"wrote {out}: {subject.name} {subject.digest.get('blake3', '')}")
    if json:
        emit({"file": str(out), "name": subject.name, "digest": dict(subject.digest)})


def _verified(
    model: Path,
    trust: list[str],
    origins: list[str] | None,
    leaf: list[str] | None,
    statements: list[Path] | None,
    revoked: Callable[[str], bool],
) -> VerifiedLineage:
    from holdfast.signing.lineage import verify_lineage

    return verify_lineage(
        model,
        _sources(trust),
        leaves=_digests(leaf),
        origins=_sources(origins) if origins else None,
        statements=statements or (),
        revoked=revoked,
    )


def _refused(digests: list[str] | None, path: Path | None, trust: list[str] | None) -> Callable[[str], bool]:
    """Return what tells whether a digest or a key is revoked: by the user, or by a signed list that is current."""
    from holdfast._files import read_bytes
    from holdfast.errors import UsageError
    from holdfast.signing.revocation import verify_revocations

    named = _digests(digests)
    if (path is None) != (not trust):
        raise UsageError("a revocation list and who must have signed it go together", hint="--revocation-trust KEY.pub")
    if path is None or not trust:
        return named.__contains__
    listed, _ = verify_revocations(read_bytes(path, "revocation list", limit=_LIMIT), [*trust])
    kinds = ("model", "dataset", "key", "bundle")
    return lambda value: value in named or any(listed.against(kind, value) for kind in kinds)


def _sources(names: list[str]) -> list[TrustSource]:
    return list(names)


def _digests(values: list[str] | None) -> frozenset[str]:
    """Return digests in hex, however they are labelled (``blake3:...``)."""
    import re

    from holdfast.errors import UsageError

    found = [value.rpartition(":")[2] for value in values or ()]
    for value in found:
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise UsageError(f"{value!r} is no digest", hint="64 lower-case hex digits")
    return frozenset(found)
