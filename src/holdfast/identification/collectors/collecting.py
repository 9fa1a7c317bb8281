"""Sending the requests of a collection: many at a time, none of them twice, within a budget.

One request goes alone before the others, so that a wrong model or a server without log-probabilities costs one answer;
and every answer is in the journal before the next request takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from holdfast.errors import HoldfastError, Unavailable, UnknownName, UnreadableArtifact
from holdfast.identification.collectors.checking import is_odd, read_answer, refusal
from holdfast.identification.collectors.client import Client, NoReply, Reply
from holdfast.identification.collectors.dialects import dialect_named
from holdfast.identification.collectors.journal import Journal
from holdfast.identification.collectors.progress import Gate, Job, Progress, State
from holdfast.identification.collectors.request import ServerRequest
from holdfast.identification.collectors.retry import CROWDED, PASSING, Patience
from holdfast.identification.collectors.secret import Secret
from holdfast.identification.collectors.server_facts import require_admission
from holdfast.identification.model_names import is_same_model

_SYNC = 0.5  # seconds between two moments at which what was written is on the disk


class Collecting:
    """One session: a server, a journal, and the requests that are left."""

    def __init__(
        self,
        asked: ServerRequest,
        client: Client,
        journal: Journal,
        state: State,
        *,
        patience: Patience,
        secret: Secret,
        progress: Progress | None = None,
    ) -> None:
        self._asked, self._client, self._journal, self._state = asked, client, journal, state
        self._patience, self._secret, self._progress = patience, secret, progress
        self._dialect, self._gate = dialect_named(asked.dialect), Gate()

    async def run(self, jobs: Iterator[Job], concurrency: int) -> None:
        """Ask everything, the first request alone; the state says how it ended."""
        syncing = asyncio.create_task(self._sync_regularly())
        try:
            await self._work(iter([job for job in [next(jobs, None)] if job is not None]))
            if self._state.refused:  # the others would fare no better, and they are not free
                self._state.failed = self._state.failed or self._state.refused.pop()[1]
            await asyncio.gather(*(self._work(jobs) for _ in range(concurrency)))
        finally:
            syncing.cancel()
            with suppress(asyncio.CancelledError):
                await syncing

    async def _sync_regularly(self) -> None:
        while True:
            await asyncio.sleep(_SYNC)
            await asyncio.to_thread(self._journal.sync)

    async def _work(self, jobs: Iterator[Job]) -> None:
        """Take one request after the other; those under way when it ends are still waited for, as they are paid for."""
        while not self._state.is_over() and (job := next(jobs, None)) is not None:
            try:
                await self._ask(job)
            except HoldfastError as error:
                self._state.failed = self._state.failed or error
            if self._state.is_over():
                self._gate.end()

    async def _ask(self, job: Job) -> None:
        """Send one request until it is answered or given up."""
        for attempt in range(1, self._patience.attempts + 1):
            await self._gate.pass_through()
            if self._state.is_over() or not self._may(job):
                return
            reply = await self._client.post(self._dialect.path, self._dialect.body(self._asked, job.text, job.repeat))
            self._state.asked += 1
            self._state.retried += attempt > 1
            if isinstance(reply, Reply) and reply.status == 200:
                self._take(job, reply)
                return
            error = self._book_failure(job, reply)
            if not _is_passing(reply) or attempt == self._patience.attempts:
                self._refuse(job, error)
                return
            await self._wait(job, attempt, reply)

    def _may(self, job: Job) -> bool:
        limit = self._state.spending.hold(job.digest, job.text, self._asked.tokens)
        if limit is not None:
            self._state.stopped = limit
        return limit is None

    def _take(self, job: Job, reply: Reply) -> None:
        """Write an answer, or why it is none."""
        spending = self._state.spending
        try:
            answer, used = read_answer(
                reply, self._dialect, self._asked, prompt=job.prompt, repeat=job.repeat, digest=job.digest
            )
            self._check_model(answer.server.get("model"))
        except (UnreadableArtifact, Unavailable, UnknownName) as error:
            self._journal.add("refused", self._line(job, str(error), spending.sent(job.digest, None)))
            if not isinstance(error, UnreadableArtifact):
                raise
            self._state.refuse(job, error)
            return
        self._journal.answer(answer, spending.sent(job.digest, used))
        self._state.accept()
        if "system_fingerprint" in answer.server:
            self._state.fingerprints.add(answer.server["system_fingerprint"])
        self._state.odd += self._asked.temperature == 0 and is_odd(answer)
        if self._progress is not None:
            self._progress(self._state.answered, self._state.total)

    def _check_model(self, said: str | None) -> None:
        """Refuse another model in the first answer; later ones are evidence of a mixed fleet, and noted."""
        if not said or is_same_model(self._asked.model, said):
            return
        if self._state.answered == 0:
            raise UnknownName(f"{self._asked.model} was asked for, and {said} answers", hint=f"--model {said}")
        self._state.others.add(said)

    def _book_failure(self, job: Job, reply: Reply | NoReply) -> HoldfastError:
        """Write down a reply that is no answer, and return the error it amounts to."""
        if isinstance(reply, Reply):
            require_admission(reply, self._secret)
            error = refusal(reply, self._asked)
            used = self._state.spending.sent(job.digest, (0, 0))
        else:
            error = Unavailable(
                f"{self._asked.url} does not answer: {reply.reason}", hint="the same call continues where it stopped"
            )
            used = self._state.spending.sent(job.digest, None if reply.sent else (0, 0))
        self._journal.add("failed", self._line(job, str(error), used))
        return error

    def _line(self, job: Job, reason: str, used: tuple[int, int]) -> dict[str, object]:
        struck = self._secret.strike_text(reason)
        return {"request": job.digest, "prompt": job.prompt, "reason": struck, "used": list(used)}

    def _refuse(self, job: Job, error: HoldfastError) -> None:
        if isinstance(error, UnknownName):
            raise error
        self._state.refuse(job, error)

    async def _wait(self, job: Job, attempt: int, reply: Reply | NoReply) -> None:
        headers = reply.headers if isinstance(reply, Reply) else {}
        seconds = self._patience.wait(job.digest, attempt, headers)
        if seconds > self._patience.longest:
            raise Unavailable(
                f"{self._asked.url} asks to wait {seconds:.0f} seconds", hint="the same call continues after that"
            )
        if isinstance(reply, Reply) and reply.status in CROWDED:
            self._gate.close(seconds)
        else:
            await self._gate.pause(seconds)


def _is_passing(reply: Reply | NoReply) -> bool:
    return not reply.final if isinstance(reply, NoReply) else reply.status in PASSING
