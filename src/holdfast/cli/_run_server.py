"""``holdfast run http://HOST:PORT/v1``: the answers of a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from holdfast.cli._common import counted, emit, say, stages
from holdfast.cli._sealed import seal, signer_for
from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from holdfast.evidence.record import Record
    from holdfast.identification.collectors import Budget, Collected, ServerRequest

_DIGITS = 18  # enough to be refused; int() takes no texts of thousands
SCHEMES = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCall:
    """What the command line says about one collection; None is not given."""

    url: str
    probes: str
    out: Path
    model: str | None
    dialect: str
    tokens: int
    top: int
    repeat: int
    temperature: float
    prompt_logprobs: bool
    prompt_seed: int
    concurrency: int
    max_requests: int | None
    max_tokens: int | None
    max_cost: float | None
    price: str | None
    api_key_env: str | None
    api_key_file: Path | None
    timeout: float
    attempts: int
    seed: int
    key: str | None
    password_file: str | None
    json: bool

    def request(self) -> ServerRequest:
        """Return what is asked."""
        from holdfast.identification.collectors import ServerRequest

        return ServerRequest(
            url=self.url,
            model=self.model or "",
            dialect=self.dialect,
            tokens=self.tokens,
            top=self.top,
            repeat=self.repeat,
            temperature=self.temperature,
            prompt_logprobs=self.prompt_logprobs,
            seed=self.seed,
        )

    def budget(self) -> Budget:
        """Return what may be spent."""
        from holdfast.identification.collectors import Budget

        prices = None if self.price is None else _prices(self.price)
        return Budget(requests=self.max_requests, tokens=self.max_tokens, cost=self.max_cost, prices=prices)

    def prompts(self) -> tuple[str, ...]:
        """Return what is asked: a number of known prompts, or those in a file."""
        from holdfast.identification.collectors import read_prompts, word_prompts

        if self.probes.isascii() and self.probes.isdigit():
            return word_prompts(int(self.probes[:_DIGITS]), seed=self.prompt_seed)
        found = read_prompts(self.probes)
        if twice := len(found) - len(set(found)):
            say(f"note: {counted(twice, 'line')} of {self.probes} ask what an earlier line asks; each is asked")
        return found


def _prices(text: str) -> tuple[float, float]:
    try:
        prompt, generated = (float(part) for part in text.split(","))
    except ValueError:
        raise InvalidConfig(
            f"{text!r} is not two prices", hint="--price 0.15,0.60 for a million prompt, generated tokens"
        ) from None
    return prompt, generated


def run_server(call: ServerCall) -> None:
    """Collect, say how it went, and sign where a key is given; exit 1 when a budget ended it."""
    from holdfast.identification.collectors import CollectOptions, Patience, collect_answers, read_secret

    signer, prompts = signer_for(call.key, call.password_file), call.prompts()
    options = CollectOptions(
        concurrency=call.concurrency,
        budget=call.budget(),
        patience=Patience(attempts=call.attempts, timeout=call.timeout),
        secret=read_secret(env=call.api_key_env, file=call.api_key_file),
    )
    with stages() as announce:
        got = collect_answers(call.request(), prompts, call.out, options=options, progress=announce("answers"))
    _tell(got, call.out)
    fingerprint = seal(call.out, _record(got), signer) if got.asked or signer is not None else None
    if call.json:
        emit(_facts(got, call.out) | {"signer": fingerprint})
    got.require_whole()
    if not got.complete:
        raise typer.Exit(1)


def _tell(got: Collected, out: Path) -> None:
    request = got.collection.request
    say(f"{out}: {got.answered} of {counted(got.total, 'answer')} of {request['model']} ({request['dialect']})")
    say(f"{counted(got.asked, 'request')} sent, {got.retried} of them again; prompts {got.collection.digest}")
    if got.stopped is not None:
        say(f"stopped at {got.stopped}; the same call with a larger budget goes on")
    for note in got.notes:
        say(f"note: {note}")


def _facts(got: Collected, out: Path) -> dict[str, Any]:
    request = got.collection.request
    return {
        "folder": str(out),
        "prompts": got.collection.digest,
        "model": request["model"],
        "dialect": request["dialect"],
        "answered": got.answered,
        "total": got.total,
        "asked": got.asked,
        "retried": got.retried,
        "refused": len(got.refused),
        "stopped": got.stopped,
        "cost": got.cost,
        "notes": list(got.notes),
    }


def _record(got: Collected) -> Record:
    from holdfast import __version__
    from holdfast.evidence.digest import digest_file
    from holdfast.evidence.record import Record
    from holdfast.evidence.statement import Subject
    from holdfast.identification.answers import ANSWERS

    found = digest_file(got.collection.folder / ANSWERS)
    request = dict(got.collection.request)
    return Record(
        kind="server-answers",
        subject=Subject(f"answers of {request['model']}", {"blake3": found.blake3, "sha256": found.sha256}),
        procedure={"type": "holdfast.collect", "version": 1} | request,
        measured={},
        inputs={"prompts": got.collection.digest},
        facts={"server": dict(got.collection.server), "answered": got.answered, "total": got.total},
        seed=int(request["seed"]),
        platform={},
        tool={"name": "holdfast", "version": __version__},
    )
