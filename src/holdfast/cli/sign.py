"""``holdfast sign``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast._files import read_bytes
from holdfast.cli._common import Json, emit, make_app, password_for, printable, say
from holdfast.errors import InvalidConfig
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.signing import (
    KeyHolder,
    Serialization,
    Signer,
    cosign_artifact,
    cosign_model,
    load_signer,
    sign_artifact,
    sign_model,
)
from holdfast.signing.envelope import read_envelope
from holdfast.signing.manifests import read_manifest
from holdfast.signing.signers import require_key

app = make_app()


@app.command(epilog="Example: holdfast sign model/ --key file:author.pem")
def sign(
    model: Annotated[Path, typer.Argument(help="Model folder or file.")],
    key: Annotated[list[str], typer.Option(help="Where the private key is: file:KEY.pem. Repeatable: all sign.")],
    signature: Annotated[
        Path | None, typer.Option(help="Where to write; MODEL/model.sig or MODEL.sig by default.")
    ] = None,
    password_file: Annotated[
        list[str] | None, typer.Option(help="File with a key's password (- asks); one per --key, in order.")
    ] = None,
    method: Annotated[str, typer.Option(help="List the model by files or by shards of them.")] = "files",
    shard_size: Annotated[int | None, typer.Option(help="Bytes of a shard; 1000000000 by default.")] = None,
    hash_: Annotated[str, typer.Option("--hash", help="sha256, blake2b or blake3.")] = "sha256",
    dialect: Annotated[str, typer.Option(help="Names of shards and single files: specification or model-signing.")] = (
        "specification"
    ),
    ignore: Annotated[list[str] | None, typer.Option(help="Path in the model to leave unsigned; repeatable.")] = None,
    ignore_git: Annotated[bool, typer.Option(help="Leave out .git, .github, .gitattributes and .gitignore.")] = True,
    allow_symlinks: Annotated[bool, typer.Option(help="Sign the files that links in the model lead to.")] = False,
    add_signature: Annotated[
        bool, typer.Option("--add-signature", help="Sign what the signature there says, beside its signers.")
    ] = False,
    rehash: Annotated[
        bool, typer.Option(help="Compare the model with the signature there before adding to it.")
    ] = True,
    version: Annotated[
        int | None, typer.Option(help="Version of the model; one more than your last by default.")
    ] = None,
    base_model: Annotated[Path | None, typer.Option(help="Signed model that this one, an adapter, completes.")] = None,
    base_trust: Annotated[list[str] | None, typer.Option(help="Who must have signed the base model.")] = None,
    tensors: Annotated[bool, typer.Option(help="List tensors one by one, for ranged loading and diff.")] = True,
    outboard: Annotated[bool, typer.Option("--outboard", help="Write outboards, to verify ranges of files.")] = False,
    timestamp: Annotated[
        str | None, typer.Option(metavar="URL", help="Have this RFC 3161 authority say when, over the network.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign every file of a model, from one read: for all tools (OMS v1.0, model.sig) and with its tensors (model.sig2).

    With --signature only the first is written. The paths to leave out are written into the signature, which the
    verifier must agree to for anything a loader reads.
    """
    _require_possible(add_signature, signature, outboard, timestamp)
    signers, base = _signers(key, password_file or []), _base(base_model, base_trust)
    left_out = _left_out(model, ignore or ())
    if signature is not None and (base is not None or version is not None):
        raise InvalidConfig("a version or a base stands in the manifest", hint="leave out --signature")
    if add_signature:
        path, second = _cosigned(model, signers, signature, ignore=left_out, rehash=rehash)
    else:
        how = Serialization(
            method=method,
            hash=hash_,
            shard_size=shard_size,
            allow_symlinks=allow_symlinks,
            ignore=left_out,
            dialect=dialect,
        )
        more = {"version": version, "base": base, "tensors": tensors, "outboards": outboard}
        path, second = _signed(model, signers, signature, {"how": how, "git": ignore_git}, more)
    if timestamp is not None:
        _stamp([path, *([second] if second else [])], timestamp)
    _report(model, path, second, signers, json)


def _left_out(model: Path, ignore: Iterable[str]) -> frozenset[str]:
    """Return the paths that are not to be signed, and say which of them there is nothing at."""
    for name in sorted(name for name in {*ignore} if not (model / name).exists()):
        say(f"note: {model} holds no {printable(name)} to leave out; the signature leaves it out all the same")
    return frozenset(ignore)


def _cosigned(model: Path, signers: list[Signer], signature: Path | None, **options: Any) -> tuple[Path, Path | None]:
    """Sign what the signature there says, beside its signers."""
    keys = [require_key(item) for item in signers]
    if signature is None:
        return cosign_model(model, *keys, **options)
    return cosign_artifact(model, *keys, signature=signature, **options), None


def _signed(
    model: Path, signers: list[Signer], signature: Path | None, how: dict[str, Any], manifest: dict[str, Any]
) -> tuple[Path, Path | None]:
    """Sign for all tools, and with a manifest of ours unless only one ``signature`` is wanted."""
    first, *more = signers
    others = [require_key(item) for item in more]
    if signature is not None:
        return sign_artifact(model, first, *others, out=signature, **how), None
    done = sign_model(model, first, *others, **how, **manifest)
    for note in done.notes:
        say(f"note: {note}")
    return done.signature, done.manifest


def _require_possible(added: bool, signature: Path | None, outboard: bool, timestamp: str | None) -> None:
    if outboard and (added or signature is not None):
        raise InvalidConfig("the roots of outboards stand in a new manifest", hint="sign without --signature")
    if timestamp is not None and added:
        raise InvalidConfig("a timestamp is over the first signature, not over one that is added to it")


def _stamp(paths: list[Path], url: str) -> None:
    """Have an authority say when the bundles were signed; what it says is verified by whoever trusts it."""
    from holdfast.signing.timestamps import timestamp_file

    for path in paths:
        say(f"{path} says: signed by {timestamp_file(path, url):%F %T} UTC")


def _base(model: Path | None, trust: list[str] | None) -> ModelManifest | None:
    if model is None:
        return None
    if not trust:
        raise InvalidConfig("the base model's own signature must verify", hint="--base-trust KEY.pub")
    return read_manifest(model, list(trust))[0]


def _signers(keys: list[str], passwords: list[str]) -> list[Signer]:
    if len(passwords) not in (0, 1, len(keys)) or (len(passwords) == 1 and len(keys) > 1):
        raise InvalidConfig(
            f"{len(passwords)} password files for {len(keys)} keys", hint="one --password-file for every --key"
        )
    files: list[str | None] = [*passwords] or [None] * len(keys)
    return [load_signer(uri, password=password_for(file)) for uri, file in zip(keys, files, strict=True)]


def _report(model: Path, path: Path, manifest: Path | None, signers: list[Signer], json: bool) -> None:
    """Say who signed: the fingerprint of a key, and for other signers what the bundle says of them."""
    envelope = read_envelope(read_bytes(path, "signature"))
    names = [item.public.fingerprint if isinstance(item, KeyHolder) else envelope.named(0) for item in signers]
    written = str(path) if manifest is None else f"{path} and {manifest.name}"
    say(f"signed {model} as {written}\n" + "\n".join(f"key {name}" for name in names))
    if json:
        value = {"signature": str(path), "manifest": None if manifest is None else str(manifest)}
        emit(value | {"signer": names[0], "signers": names, "signatures": len(envelope.signatures)})
