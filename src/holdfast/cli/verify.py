"""``holdfast verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from holdfast.cli._common import Json, counted, emit, make_app, printable, say
from holdfast.errors import InvalidConfig
from holdfast.signing import Identity, Threshold, Verified, VerifiedArtifact, require_threshold
from holdfast.signing import verify as verify_subject

app = make_app()


@app.command(epilog="Example: holdfast verify model/ --trust author.pub")
def verify(
    path: Annotated[Path, typer.Argument(help="Signed model, or assessment folder with a passport.")],
    trust: Annotated[
        list[str] | None,
        typer.Option(help="Who must have signed: a public key (PEM), or as in key:PATH. Repeatable: all of them."),
    ] = None,
    threshold: Annotated[int | None, typer.Option(help="So many of those trusted are enough.", min=1)] = None,
    signature: Annotated[Path | None, typer.Option(help="The bundle, if it is not in its usual place.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="File you agree to leave unsigned; repeatable.")] = None,
    extra: Annotated[str, typer.Option(help="refuse or allow files that nobody signed.")] = "refuse",
    allow_symlinks: Annotated[
        bool | None, typer.Option(help="Follow links to files inside the model or its cache; as signed by default.")
    ] = None,
    legacy: Annotated[bool, typer.Option("--legacy", help="Also read formats of model-signing before 1.1.")] = False,
    span: Annotated[
        str | None,
        typer.Option("--range", metavar="FILE:START:STOP", help="Verify these bytes only; needs the signed manifest."),
    ] = None,
    json: Json = False,
) -> None:
    """Verify a signature over the very files that are there; exit 1 names what differs.

    A passport can be verified without --trust: that shows that nothing changed since it was signed, not who signed.
    """
    if extra not in ("refuse", "allow"):
        raise InvalidConfig(f"--extra is refuse or allow, not {extra!r}")
    trusted = _trusted(trust or [], threshold)
    if span is not None:
        _verify_range(path, span, trusted, signature, json)
        return
    proof = verify_subject(
        path,
        signature,
        trust=trusted,
        ignore=ignore or (),
        extra=cast(Literal["refuse", "allow"], extra),
        allow_symlinks=allow_symlinks,
        legacy=legacy,
    )
    say(f"verified: {path}, {counted(_facts(proof)['files'], 'file')}, signed by {_names(proof, trusted)}")
    _say_notes(proof)
    if json:
        needed = {} if trusted is None else {"needed": trusted.needed, "trusted": len(trusted.members)}
        emit({"path": str(path)} | _facts(proof) | needed)


def _verify_range(path: Path, span: str, trusted: Threshold | None, signature: Path | None, json: bool) -> None:
    from holdfast.signing.outboards import verify_range

    if trusted is None:
        raise InvalidConfig("verification needs the key to trust", hint="--trust KEY.pub")
    found = verify_range(path, span, trusted, signature=signature)
    where = f"bytes {found.start} to {found.stop} of {found.file}"
    say(f"verified: {where}, reading {found.bytes_read:,} bytes, signed by {_names(found.proof, trusted)}")
    if json:
        value = {"file": found.file, "start": found.start, "stop": found.stop, "bytes_read": found.bytes_read}
        emit({"path": str(path)} | value | {"signers": [_signer(item) for item in found.proof.signers]})


def _trusted(sources: list[str], needed: int | None) -> Threshold | None:
    if not sources and needed is not None:
        raise InvalidConfig("a threshold needs somebody to trust", hint="--trust KEY.pub")
    return require_threshold(list(sources), needed) if sources else None


def _names(proof: Verified, trusted: Threshold | None) -> str:
    """Return who signed, when if somebody trusted says so, and how many of whom had to."""
    names = ", ".join(map(_name, proof.signers))
    if trusted is None or len(trusted.members) == 1:
        return names
    return f"{names} ({trusted.needed} of {len(trusted.members)} needed)"


def _name(identity: Identity) -> str:
    issuer = f" (says {identity.issuer})" if identity.issuer else ""
    return f"{identity.name}{issuer}" + (f" by {identity.time:%F %T} UTC" if identity.time is not None else "")


def _say_notes(proof: Verified) -> None:
    if proof.self_signed:
        say("note: verified with the key in the folder itself: nothing changed, but nobody vouches for the signer")
    if isinstance(proof, VerifiedArtifact):
        for note in (*proof.notes, *(f"{name} is not signed" for name in proof.unsigned)):
            say(f"note: {printable(note)}")


def _facts(proof: Verified) -> dict[str, Any]:
    value: dict[str, Any] = {
        "files": len(proof.statement.subjects),
        "signer": proof.signer,
        "signers": [_signer(item) for item in proof.signers],
        "self_signed": proof.self_signed,
    }
    if isinstance(proof, VerifiedArtifact):
        how = proof.listing.how
        value |= {"files": len(proof.listing.files), "method": how.method, "hash": how.hash}
        value |= {"unsigned": list(proof.unsigned), "notes": list(proof.notes)}
    return value


def _signer(identity: Identity) -> dict[str, str]:
    value = {"kind": identity.kind, "name": identity.name, "fingerprint": identity.fingerprint}
    if identity.issuer:
        value["issuer"] = identity.issuer
    return value | ({} if identity.time is None else {"time": identity.time.isoformat()})
