"""A gateway without its sockets: reads requests, has them answered, and knows how it is doing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from torch import Tensor

from holdfast.shielding.gateway.audit import Audit
from holdfast.shielding.gateway.jobs import Job
from holdfast.shielding.gateway.metrics import Metrics
from holdfast.shielding.gateway.pool import Pool
from holdfast.shielding.gateway.refusal import Refused
from holdfast.shielding.gateway.settings import Settings
from holdfast.shielding.gateway.signature import JSON, Signature
from holdfast.shielding.gateway.sources import Source

_PREFIX = "holdfast_"
_MAX_BODY = 16 * 2**20


class Gateway:
    """Use it as a context manager; every request that reaches it is counted once, by how it ended.

    Args:
        sources: one for each session.
        signature: what a request may hold.
        settings: limits.
        audit: writes down what happens to workers.
        max_body: bytes of the longest request; by default what the signature needs, 16 MiB at most.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        signature: Signature,
        *,
        settings: Settings,
        audit: Audit,
        max_body: int | None = None,
    ) -> None:
        self.signature, self.settings, self.audit = signature, settings, audit
        self.max_body = min(_MAX_BODY, signature.longest) if max_body is None else max_body
        self.metrics = Metrics()
        self.pool = Pool(sources, settings, self.metrics, audit)
        self._lock, self._arriving = Lock(), 0  # bytes of requests that are being read
        self._most = (settings.queue + len(sources)) * self.max_body
        self._gauges()

    def __enter__(self) -> Gateway:
        self.pool.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def arriving(self, length: int | None) -> Iterator[Callable[[int], None]]:
        """Admit a request while it is read; call what this yields with the bytes that are about to be kept.

        What counts is what came, not what was announced: whoever announces much and sends little holds little, and
        keeps nobody else out.

        Args:
            length: bytes that it announces, if it does.

        Raises:
            Refused: too long, nothing could be done with it now, or more arrives at once than could be answered;
                counted already.
        """
        self.require_length(length or 0)
        self.pool.require_room()
        kept = 0

        def keep(count: int) -> None:
            nonlocal kept
            self.require_length(kept + count)
            with self._lock:
                if fits := self._arriving + count <= self._most:
                    self._arriving += count
                    kept += count
            if not fits:
                raise self.counted(Refused("too many requests arrive at once", outcome="overloaded", retry_after=1))

        try:
            yield keep
        finally:
            with self._lock:
                self._arriving -= kept

    def require_length(self, length: int) -> None:
        """Refuse a request longer than allowed.

        Raises:
            Refused: it is; counted already.
        """
        if length > self.max_body:
            raise self.counted(
                Refused(f"a request has {self.max_body} bytes at most", hint="send fewer inputs", outcome="too-large")
            )

    def read(self, raw: bytes, kind: str = JSON) -> Tensor:
        """Return the inputs of a request.

        Raises:
            Refused: it is malformed, or for another model; counted already.
        """
        try:
            return self.signature.read(raw, kind)
        except Refused as refused:
            raise self.counted(refused) from refused.__cause__

    def submit(self, inputs: Tensor) -> Job:
        """Accept inputs that :meth:`read` returned.

        Raises:
            Refused: nothing can be done with them now; counted already.
        """
        return self.pool.submit(inputs)

    def counted(self, refused: Refused) -> Refused:
        """Count a request that ended before it was accepted, and return how."""
        self.metrics.requests.add(refused.outcome)
        return refused

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Return whether to send requests here, and why."""
        states = self.pool.states()
        ready = not self.pool.draining and states["ready"] + states["busy"] > 0
        return ready, {"ready": ready, "draining": self.pool.draining, "workers": states}

    def drain(self) -> None:
        """Refuse new requests from now on."""
        if not self.pool.draining:
            self.audit("draining", outstanding=self.pool.outstanding)
            self.pool.drain()

    @property
    def drained(self) -> bool:
        """Whether it drains and everything that was accepted has ended."""
        return self.pool.draining and self.pool.outstanding == 0

    def close(self) -> None:
        """Refuse what is left and end all sessions."""
        self.pool.close()
        self.audit("stopped")

    def _gauges(self) -> None:
        pool, gauge = self.pool, self.metrics.gauge
        gauge(
            f"{_PREFIX}workers",
            "Sessions by state.",
            lambda: {str(state): seats for state, seats in pool.states().items()},
            "state",
        )
        gauge(f"{_PREFIX}queue_depth", "Requests that wait.", lambda: {"": len(pool.waiting)})
        gauge(f"{_PREFIX}queue_limit", "Requests that may wait.", lambda: {"": pool.settings.queue})
        gauge(f"{_PREFIX}requests_outstanding", "Requests accepted and not ended.", lambda: {"": pool.outstanding})
        gauge(f"{_PREFIX}draining", "1 while shutting down.", lambda: {"": pool.draining})
        gauge("process_resident_memory_bytes", "Resident memory.", resident)


def resident() -> dict[str, float]:
    """Return the resident memory of this process in bytes, where the system tells."""
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return {"": pages * os.sysconf("SC_PAGE_SIZE")}
    return {}
