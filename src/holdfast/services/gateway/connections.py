"""Who keeps the HTTP server waiting makes room for others: slow heads, slow bodies, and answers that nobody takes.

A limit on connections alone is a door that anybody can keep shut, by opening as many as there may be and sending
nothing. Here what is limited is *waiting*, and at the limit the one that has kept the server waiting longest goes, not
the one that comes. Whoever sends a head at once, such as a probe, is answered at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast.shielding.gateway import Refused
from holdfast.shielding.gateway.signature import JSON

_NEVER_MEASURED = 1 << 62  # bytes


class Waiting:
    """Connections that keep the server waiting, in the order in which they began to.

    Args:
        most: of them; with one more, the first is hung up on.
    """

    def __init__(self, most: int) -> None:
        self._most, self._since = most, dict[Any, None]()

    def __len__(self) -> int:
        return len(self._since)

    def add(self, connection: Any) -> None:
        """Say that ``connection``, a protocol of uvicorn, waits; it keeps its place if it did already."""
        self._since.setdefault(connection)
        while len(self._since) > self._most:
            first = next(iter(self._since))
            del self._since[first]
            first.transport.abort()  # not close, which waits until the other side has taken what was sent

    def discard(self, connection: Any) -> None:
        """Say that ``connection`` does not wait any more."""
        self._since.pop(connection, None)


class Displaced(TimeoutError):
    """What arrived longest made room for another."""


class Places:
    """Requests that are read or computed, a bounded number at a time.

    Args:
        most: of them; with one more, the one whose body has been arriving longest gives its place up.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._arriving: dict[asyncio.Timeout, None] = {}

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold one place, or yield False: all are held by requests that have arrived."""
        if self._held >= self._most and not self._made_room():
            yield False
            return
        self._held += 1
        try:
            yield True
        finally:
            self._held -= 1

    @asynccontextmanager
    async def arriving(self, patience: float) -> AsyncIterator[None]:
        """Give a body ``patience`` seconds to arrive, or less where its place is wanted.

        Raises:
            Displaced: its place was wanted.
            TimeoutError: it did not arrive in time.
        """
        try:
            async with asyncio.timeout(patience) as limit:
                self._arriving[limit] = None
                yield
        except TimeoutError as error:
            if limit in self._arriving:
                raise
            raise Displaced from error
        finally:
            self._arriving.pop(limit, None)

    def _made_room(self) -> bool:
        for limit in self._arriving:
            del self._arriving[limit]
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
            return True
        return False


class _Watch:
    """Hangs up on one connection that keeps the server waiting longer than allowed."""

    def __init__(self, connection: Any, allowance: float, waiting: Waiting) -> None:
        self._connection, self._allowance, self._waiting = connection, allowance, waiting
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Begin to count the time if the connection waits, and stop if it does not."""
        it = self._connection
        if it.cycle is not None and not it.cycle.response_complete and not it.flow.write_paused:
            self.end()
            return
        self._waiting.add(it)
        if self._timer is None:
            self._look_again(_NEVER_MEASURED)

    def end(self) -> None:
        """Stop counting."""
        self._waiting.discard(self._connection)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self, left: int) -> None:
        self._timer = self._connection.loop.call_later(self._allowance, self._late, left)

    def _late(self, before: int) -> None:
        left = self._connection.transport.get_write_buffer_size()
        if 0 < left < before:  # somebody takes a long answer
            self._look_again(left)
        elif left:
            self._connection.transport.abort()
        else:
            self._connection.transport.close()


def hurried(base: Any, allowance: float, waiting: Waiting, counted: Callable[[Refused], Refused]) -> Any:
    """Return uvicorn's protocol ``base``, which hangs up on connections that keep it waiting, and errs in JSON.

    Args:
        base: the h11 protocol class of uvicorn.
        allowance: seconds from the connection, or from the last answer, to a complete head; and seconds in which
            something of an answer must be taken.
        waiting: where connections are entered while they wait.
        counted: called with the error for what is no HTTP.
    """

    def connection_made(self: Any, transport: Any) -> None:
        self.watch = _Watch(self, allowance, waiting)
        base.connection_made(self, transport)
        self.watch.look()

    def connection_lost(self: Any, error: Exception | None) -> None:
        self.watch.end()
        base.connection_lost(self, error)

    def send_400_response(self: Any, said: str) -> None:
        refused = Refused("the request is not HTTP as this server reads it", outcome="invalid")
        if self.cycle is None or self.cycle.response_complete:
            counted(refused)  # otherwise it is counted where the body is read
        _send(self, refused)
        self.transport.close()

    steps = ("data_received", "on_response_complete", "pause_writing", "resume_writing")
    methods: dict[str, Any] = {name: _then_looked_at(getattr(base, name)) for name in steps}
    own = (connection_made, connection_lost, send_400_response)
    return type("Hurried", (base,), methods | {function.__name__: function for function in own})


def _then_looked_at(step: Callable[..., None]) -> Callable[..., None]:
    def method(self: Any, *arguments: Any) -> None:
        step(self, *arguments)
        self.watch.look()

    return method


def _send(connection: Any, refused: Refused) -> None:
    """Write an error, where no answer has begun."""
    import h11  # with uvicorn

    if connection.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    body = json.dumps(refused.to_json()).encode()
    headers = [("content-type", JSON), ("content-length", str(len(body))), ("connection", "close")]
    for event in (
        h11.Response(status_code=refused.code.http, headers=headers), h11.Data(data=body), h11.EndOfMessage(),
    ):  # fmt: skip
        connection.transport.write(connection.conn.send(event))
