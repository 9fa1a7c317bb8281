"""``collect_answers``: a folder of answers from a server, begun or continued."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast.errors import InvalidConfig
from holdfast.execution.platform import describe_platform
from holdfast.identification.answers import Collection
from holdfast.identification.collectors.budget import Budget, Spending
from holdfast.identification.collectors.client import LOCAL, Client, Reply, require_http
from holdfast.identification.collectors.collecting import Collecting
from holdfast.identification.collectors.dialects import dialect_named
from holdfast.identification.collectors.journal import Description, Journal, require_place, require_same
from holdfast.identification.collectors.progress import Collected, Progress, State, open_jobs
from holdfast.identification.collectors.request import AUTO, ServerRequest
from holdfast.identification.collectors.retry import Patience
from holdfast.identification.collectors.secret import Secret
from holdfast.identification.collectors.server_facts import ServerFacts, ask_about, only_model, require_model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """How to go about it, which the answers do not depend on.

    Attributes:
        concurrency: requests under way at the same time.
        budget: what all calls together may spend.
        patience: how often and how long a request is tried.
        secret: the server's key.
    """

    concurrency: int = 16
    budget: Budget = dataclasses.field(default_factory=Budget)
    patience: Patience = dataclasses.field(default_factory=Patience)
    secret: Secret = dataclasses.field(default_factory=Secret)

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InvalidConfig(f"{self.concurrency} requests at a time are none")


def collect_answers(
    request: ServerRequest,
    prompts: Sequence[str],
    out: Path | str,
    *,
    options: CollectOptions | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Ask a server every prompt and keep what it says; the same call again continues where it stopped.

    A request whose answer is in the folder is never sent again. One that was under way when the process was killed
    is, and may have been charged by then.

    Args:
        request: what to ask of whom.
        prompts: in order; they are kept in the folder.
        out: folder of the collection, new or begun by the same call.
        options: concurrency, budget, retries, key.
        progress: called with the number of answers and of all that are wanted.

    Raises:
        InvalidConfig: the folder holds something else, or was begun with other prompts or another request; the server
            refuses the request; it redirects to another one.
        UnknownName: the server does not serve the model, or answers with another.
        Unavailable: nobody answers, not even after retries; the key is refused; there are no log-probabilities.
        UnreadableArtifact: the first answer, or eight in a row, are malformed or cut short. Single ones are kept in
            :attr:`Collected.refused`.
        MissingExtra: the HTTP library is not installed.
        StorageError: the disk is full, or another process collects into the folder.
    """
    require_http()
    if not prompts:
        raise InvalidConfig("there is no prompt to ask")
    found = require_place(Path(out))
    if found is not None and next(found.answers(), None) is not None:  # one without answers may become another
        request = _as_begun(request, found)
        require_same(found, prompts, request.to_json())
    return asyncio.run(_collect(request, tuple(prompts), Path(out), found, options or CollectOptions(), progress))


def _as_begun(request: ServerRequest, found: Collection) -> ServerRequest:
    """Fill in what the earlier call found out."""
    begun = ServerRequest.from_json(found.request)
    model = request.model or begun.model
    return dataclasses.replace(
        request, model=model, dialect=begun.dialect if request.dialect == AUTO else request.dialect
    )


async def _collect(
    request: ServerRequest,
    prompts: tuple[str, ...],
    out: Path,
    found: Collection | None,
    options: CollectOptions,
    progress: Progress | None,
) -> Collected:
    spending = Spending(options.budget)
    done = _account(found, spending)
    total = len(prompts) * request.repeat
    if found is not None and len(done) == total:
        return _collected(found, State(spending, total, len(done)), ())
    timeout = options.patience.timeout
    async with Client(request.root, options.secret, connections=options.concurrency, timeout=timeout) as client:
        facts = await ask_about(client, options.secret)
        request = await _resolved(request, facts, client)
        server, me = {"url": request.url, **facts.to_json()}, describe_platform().to_json()
        described = Description(prompts=prompts, request=request.to_json(), client=me, server=server)
        state = State(spending, total, len(done))
        with Journal(out, described) as journal:
            journal.add("session", {"at": datetime.now(UTC).isoformat(), "client": me, "server": server})
            work = Collecting(
                request,
                client,
                journal,
                state,
                patience=options.patience,
                secret=options.secret,
                progress=progress,
            )
            await work.run(open_jobs(prompts, request, done), options.concurrency)
    if state.failed is not None:
        raise state.failed
    return _collected(Collection.load(out), state, _notes(state, request, options.secret, found, server))


def _account(found: Collection | None, spending: Spending) -> frozenset[str]:
    """Book what earlier calls spent, and return which requests they got answered."""
    done = set()
    for line in found.lines() if found is not None else ():
        if line["kind"] in ("answer", "refused", "failed"):
            used = line.get("used") or (0, 0)
            spending.book(1, (int(used[0]), int(used[1])))
        if line["kind"] == "answer":
            done.add(str(line["request"]))
    return frozenset(done)


async def _resolved(request: ServerRequest, facts: ServerFacts, client: Client) -> ServerRequest:
    """Fill in the model and the dialect, and see to it that the server knows them."""
    dialect = facts.dialect if request.dialect == AUTO else request.dialect
    if request.dialect == AUTO and dialect == "completions" and await _has_no_completions(client):
        dialect = "chat"
    dialect_named(dialect)
    request = dataclasses.replace(request, model=request.model or only_model(facts), dialect=dialect)
    require_model(request, facts)
    dialect_named(dialect).body(request, "", 0)  # refuses what this dialect cannot ask
    return request


async def _has_no_completions(client: Client) -> bool:
    """Ask with an empty request, which costs nothing: a server that has the place finds fault with the request."""
    reply = await client.post(dialect_named("completions").path, {})
    return isinstance(reply, Reply) and reply.status in (404, 405)


def _notes(
    state: State, request: ServerRequest, secret: Secret, found: Collection | None, server: Mapping[str, Any]
) -> tuple[str, ...]:
    notes = []
    if state.others:
        notes.append(f"some answers name another model than {request.model}: {', '.join(sorted(state.others))}")
    if len(state.fingerprints) > 1:
        notes.append(f"several systems answered: {', '.join(sorted(state.fingerprints)[:5])}")
    if state.odd:
        notes.append(
            f"{state.odd} greedy answers chose a token that their own log-probabilities call less likely: the server "
            "changes logits after it has written them (a repetition penalty?), or writes them at other positions"
        )
    address = urlsplit(request.url)
    if secret.value and address.scheme == "http" and address.hostname not in LOCAL:
        notes.append("the key travels unencrypted: the address begins with http:")
    if found is not None and found.server != server:
        notes.append("the server says other things of itself than when the collection began; see its session lines")
    return tuple(notes)


def _collected(collection: Collection, state: State, notes: tuple[str, ...]) -> Collected:
    return Collected(
        collection=collection,
        answered=state.answered,
        total=state.total,
        asked=state.asked,
        retried=state.retried,
        refused=tuple(state.refused),
        stopped=state.stopped,
        cost=state.spending.cost,
        notes=notes,
    )
