"""The state that all requests of one collection share while they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError
from holdfast.identification.answers import Collection
from holdfast.identification.collectors.budget import Spending
from holdfast.identification.collectors.request import ServerRequest

Progress = Callable[[int, int], None]
MANY = 8  # answers refused in a row after which a server is given up


@dataclass(frozen=True, slots=True)
class Job:
    """One request that has no answer yet."""

    prompt: int
    repeat: int
    text: str
    digest: str


def open_jobs(prompts: tuple[str, ...], asked: ServerRequest, done: frozenset[str]) -> Iterator[Job]:
    """Yield the requests without an answer: every prompt once, then every prompt again."""
    for repeat in range(asked.repeat):
        for number, text in enumerate(prompts):
            digest = asked.digest(number, text, repeat)
            if digest not in done:
                yield Job(number, repeat, text, digest)


class Gate:
    """Where requests wait while the server is busy: what it says to one holds for all."""

    def __init__(self) -> None:
        self._until = 0.0
        self._end = asyncio.Event()

    def close(self, seconds: float) -> None:
        """Let nobody pass for so many seconds from now."""
        self._until = max(self._until, time.monotonic() + seconds)

    def end(self) -> None:
        """Wake up everybody who waits: nothing more will be sent."""
        self._end.set()

    async def pass_through(self) -> None:
        """Return when the gate is open."""
        while (left := self._until - time.monotonic()) > 0 and not self._end.is_set():
            await self.pause(left)

    async def pause(self, seconds: float) -> None:
        """Wait, unless it all ends before."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._end.wait(), seconds)


@dataclass(slots=True)
class State:
    """Counts, and why it ends early if it does."""

    spending: Spending
    total: int
    answered: int = 0  # earlier sessions included
    asked: int = 0  # requests of this session
    retried: int = 0
    refused: list[tuple[int, HoldfastError]] = field(default_factory=list)  # (prompt, why)
    others: set[str] = field(default_factory=set)  # names that replies give to the model
    fingerprints: set[str] = field(default_factory=set)  # of the systems that answered
    odd: int = 0  # greedy answers whose token is not the likeliest by its own log-probabilities
    in_a_row: int = 0
    stopped: str | None = None  # the limit that was reached
    failed: HoldfastError | None = None

    def is_over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.stopped is not None or self.failed is not None

    def refuse(self, job: Job, error: HoldfastError) -> None:
        """Note an answer that is none; after many in a row the server is given up."""
        self.refused.append((job.prompt, error))
        self.in_a_row += 1
        if self.in_a_row >= MANY:
            self.failed = self.failed or error

    def accept(self) -> None:
        """Count an answer."""
        self.answered += 1
        self.in_a_row = 0


@dataclass(frozen=True, slots=True)
class Collected:
    """What came of a call.

    Attributes:
        collection: the folder.
        answered: requests with an answer, of earlier calls too.
        total: requests of the complete collection.
        asked: requests sent by this call, retries included.
        retried: of these, the ones that were retries.
        refused: (prompt, why) of answers that were none.
        stopped: the limit of the budget that ended it, or None.
        cost: of all calls, in the currency of the prices.
        notes: what a reader should know besides.
    """

    collection: Collection
    answered: int
    total: int
    asked: int
    retried: int
    refused: tuple[tuple[int, HoldfastError], ...]
    stopped: str | None
    cost: float
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every prompt has all its answers."""
        return self.answered == self.total

    def require_whole(self) -> None:
        """Raise the first refusal, with a count of all, unless there was none."""
        if self.refused:
            prompt, error = self.refused[0]
            count = len(self.refused)
            raise type(error)(
                f"{count} answer{'s' if count > 1 else ''} of {self.total} refused, first to prompt {prompt}: {error}",
                hint=error.hint or "the same call asks for the missing ones again",
            )
