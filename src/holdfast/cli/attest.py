"""``holdfast attest``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Json, aligned, counted, emit, make_app, printable, say
from holdfast.errors import InvalidConfig, UnreadableArtifact

app = make_app()


@app.callback(
    epilog="Example: holdfast attest verify quote.json --policy policy.toml --nonce 00ff --at 2026-11-01T00:00:00Z"
)
def attest() -> None:
    """Attestation of worlds: what hardware says about the code it runs."""


@app.command(
    epilog="Example: holdfast attest verify report.bin --kind sev-snp --collateral vcek=vcek.der "
    "--collateral chain=chain.pem --policy policy.toml --nonce $NONCE --at now"
)
def verify(
    evidence: Annotated[Path, typer.Argument(help="Evidence: a file of ours, or a device's own bytes with --kind.")],
    policy: Annotated[Path, typer.Option(help="What the evidence must be like (TOML).")],
    at: Annotated[str, typer.Option(metavar="TIME", help="The time to verify for: ISO 8601 with zone, or now.")],
    nonce: Annotated[str | None, typer.Option(metavar="HEX", help="The nonce that was asked to be signed.")] = None,
    binding: Annotated[
        str | None, typer.Option(metavar="HEX", help="The session's exporter that the nonce is bound to.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Kind of raw evidence: tpm2, sgx, tdx, sev-snp, nitro, nvidia-gpu.")
    ] = None,
    collateral: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="A certificate, list or log; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify attestation evidence offline and print what it says; exit 1 names the demand that is not met.

    There is no default time: evidence and its collateral expire, so say for when the question is asked.
    """
    from holdfast.shielding.attestation import bound, read_evidence, read_policy
    from holdfast.shielding.attestation import verify as verify_evidence

    when = _time(at)
    parts = dict(map(_pair, collateral or []))
    expected = None if nonce is None else _hex("--nonce", nonce)
    if binding is not None:
        if expected is None:
            raise InvalidConfig("--binding needs the nonce that is bound to it", hint="--nonce HEX")
        expected = bound(expected, _hex("--binding", binding))
    found = read_evidence(evidence, kind=kind, collateral=parts)
    claims = verify_evidence(found, read_policy(policy), nonce=expected, at=when)
    say(f"verified: {evidence}, {claims.kind}, for {when:%F %T} UTC")
    value = claims.to_json() | {"at": when.isoformat()}
    if json:
        emit(value)
        return
    rows = [("root", claims.root), ("identity", claims.identity), ("debug", str(claims.debug).lower())]
    rows += [("patch level", claims.tcb)] if claims.tcb else []
    rows += [(name, text) for group in ("measurements", "versions", "details") for name, text in value[group].items()]
    for line in aligned([*rows, *(("advisory", name) for name in claims.advisories)]):
        print(printable(line))


@app.command(epilog="Example: holdfast attest lint pytorch.manifest.template")
def lint(
    manifest: Annotated[Path, typer.Argument(help="Manifest of Gramine, rendered or a template.")],
    json: Json = False,
) -> None:
    """Say what makes the measurement of a Gramine enclave worth less than it seems; exit 1 if anything does."""
    from holdfast._files import read_bytes
    from holdfast.shielding.worlds import lint as find

    try:
        text = read_bytes(manifest, "manifest", limit=1 << 24).decode()
    except UnicodeDecodeError:
        raise UnreadableArtifact(f"{manifest} is not UTF-8") from None
    found = find(text)
    if json:
        emit({"findings": [{"key": item.key, "rule": item.rule, "why": item.why} for item in found]})
    else:
        for item in found:
            print(f"{item.rule}: {printable(item.key)}: {item.why}")
    say(f"{manifest}: {counted(len(found), 'finding')}")
    if found:
        raise typer.Exit(1)


def _time(text: str) -> datetime:
    if text == "now":
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidConfig(f"--at {text!r} is no time", hint="2026-06-01T12:00:00Z, or now") from None
    if found.tzinfo is None:
        raise InvalidConfig(f"--at {text} has no time zone", hint=f"{found.isoformat()}Z")
    return found.astimezone(UTC)


def _hex(option: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InvalidConfig(f"{option} is not hexadecimal") from None


def _pair(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise InvalidConfig(f"cannot read --collateral {text!r}", hint="--collateral NAME=FILE")
    return name, Path(file)
