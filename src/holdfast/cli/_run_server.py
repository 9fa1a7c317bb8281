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
    from collections.abc import Mapping

    from holdfast.evidence.record import Record
    from holdfast.identification.collectors import Collected, CollectOptions, ServerRequest

_DIGITS = 18  # enough to be refused; int() takes no texts of thousands
SCHEMES = ("http://", "https://")


# parameters of the verb, and what they are called where their defaults stand
REQUEST = {name: name for name in ("dialect", "tokens", "top", "repeat", "temperature", "prompt_logprobs")}
REQUEST |= {"name": "model"}
COLLECTING = ("concurrency", "timeout", "attempts", "prompt_seed")


@dataclass(frozen=True, slots=True)
class ServerCall:
    """What the command line says about one collection.

    Attributes:
        url: address of the server.
        probes: a number of known prompts, or a file of them.
        out: folder of the answers.
        given: parameters that were typed; all others are as the library has them.
    """

    url: str
    probes: str
    out: Path
    given: Mapping[str, Any]

    def _typed(self, *names: str) -> dict[str, Any]:
        return {name: self.given[name] for name in names if name in self.given}

    def request(self) -> ServerRequest:
        """Return what is asked."""
        from holdfast.identification.collectors import ServerRequest

        asked = {REQUEST[name]: value for name, value in self._typed(*REQUEST).items()}
        return ServerRequest(url=self.url, **asked, **self._typed("seed"))

    def options(self) -> CollectOptions:
        """Return how it is asked: how many at a time, how patiently, with which key, and for how much."""
        from holdfast.identification.collectors import Budget, CollectOptions, Patience, read_secret

        given, price = self.given, self.given.get("price")
        budget = Budget(
            requests=given.get("max_requests"),
            tokens=given.get("max_tokens"),
            cost=given.get("max_cost"),
            prices=None if price is None else _prices(price),
        )
        patience = Patience(**self._typed("attempts", "timeout"))
        secret = read_secret(env=given.get("api_key_env"), file=given.get("api_key_file"))
        return CollectOptions(budget=budget, patience=patience, secret=secret, **self._typed("concurrency"))

    def prompts(self) -> tuple[str, ...]:
        """Return what is asked: a number of known prompts, or those in a file."""
        from holdfast.identification.collectors import read_prompts, word_prompts

        if self.probes.isascii() and self.probes.isdigit():
            return word_prompts(int(self.probes[:_DIGITS]), seed=self.given.get("prompt_seed", 0))
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
    from holdfast.identification.collectors import collect_answers

    signer = signer_for(call.given.get("key"), call.given.get("password_file"))
    prompts, options = call.prompts(), call.options()
    with stages() as announce:
        got = collect_answers(call.request(), prompts, call.out, options=options, progress=announce("answers"))
    _tell(got, call.out)
    fingerprint = seal(call.out, _record(got), signer) if got.asked or signer is not None else None
    if call.given.get("json"):
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
