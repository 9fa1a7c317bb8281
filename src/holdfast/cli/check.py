"""``holdfast check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast._files import read_bytes, write_atomic
from holdfast.cli._common import Json, emit, make_app, password_for, say
from holdfast.errors import InvalidConfig, PolicyError
from holdfast.policy import Judgement, State, judge, sign_summary, verify_summary
from holdfast.signing import load_signer
from holdfast.signing.signers import require_key
from holdfast.signing.times import read_span, write_time

app = make_app()


@app.command(epilog="Example: holdfast check model/ --policy deploy.toml --evidence evidence/ --explain")
def check(
    folder: Annotated[Path, typer.Argument(help="Signed model, or assessment folder with its passport.")],
    policy: Annotated[Path, typer.Option(help="Policy (TOML).")],
    evidence: Annotated[
        list[Path] | None, typer.Option(help="Further bundles or passports: file or folder; repeatable.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every verdict, also what was not asked.")] = False,
    summary: Annotated[Path | None, typer.Option(help="Write a signed summary (SLSA VSA) here if all is met.")] = None,
    key: Annotated[str | None, typer.Option(help="Key that signs the summary: file:KEY.pem.")] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    with_summary: Annotated[
        Path | None, typer.Option(help="Accept this summary of a trusted verifier instead of judging.")
    ] = None,
    trust: Annotated[list[str] | None, typer.Option(help="The verifier whose summary counts; repeatable.")] = None,
    maximum_age: Annotated[str, typer.Option(help="How old that summary may be: 7d, 12h.")] = "7d",
    json: Json = False,
) -> None:
    """Hold a model or an assessment against a policy; exit 1 names every demand that is not met, and why."""
    if with_summary is not None:
        _accept(folder, policy, with_summary, trust or [], maximum_age, json)
        return
    if (summary is None) != (key is None):
        raise InvalidConfig("--summary and --key go together", hint="the key signs the summary")
    signer = None if key is None else require_key(load_signer(key, password=password_for(password_file)))
    judgement = judge(folder, policy, evidence=tuple(evidence or ()))
    _show(judgement, explain)
    if json:
        emit(_to_json(judgement, policy))
    if judgement.failures:
        names = "; ".join(f"{item.demand}: {item.explanation}" for item in judgement.failures)
        raise PolicyError(f"{len(judgement.failures)} not met: {names}")
    if summary is not None and signer is not None:
        write_atomic(summary, sign_summary(judgement, signer))
        say(f"summary: {summary}, signed by {signer.public.fingerprint}")


def _show(judgement: Judgement, explain: bool) -> None:
    for item in judgement.verdicts:
        if explain or item.state is State.MET:
            say(f"{item.state}: {item.demand}: {item.explanation}")


def _to_json(judgement: Judgement, policy: Path) -> dict[str, Any]:
    met = [{"kind": item.demand, "why": item.explanation} for item in judgement.met]
    verdicts = [item.to_json() for item in judgement.verdicts]
    return {"policy": str(policy), "passed": not judgement.failures, "met": met, "verdicts": verdicts}


def _accept(folder: Path, policy: Path, place: Path, trust: list[str], maximum_age: str, json: bool) -> None:
    data = read_bytes(place, "summary", limit=64 << 20)
    found = verify_summary(folder, data, list(trust), policy, maximum_age=read_span(maximum_age, "--maximum-age"))
    say(f"met: summary of {write_time(found.verified)} by {found.proof.signer}: {', '.join(found.levels)}")
    if json:
        emit({"policy": str(policy), "passed": True, "verifier": found.proof.signer, "levels": list(found.levels)})
