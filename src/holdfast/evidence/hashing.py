"""One read pass over a file, feeding any number of hashes, in constant memory.

A file is read with ``preadv`` into a ring of buffers, never mapped: what is hashed is what was read, and a file cut
short meanwhile is an error and not a signal. Chunks of 1 MiB stay in the second-level cache, so that the second and
third hash of a chunk do not wait for memory (measured on Zen 5, 1 GiB in the page cache: reading alone takes 0.08
CPU-s, each BLAKE3 0.18 more and SHA-256 0.60 more, within 5 % for chunks of 512 KiB to 2 MiB). Buffers start on a
page: what the heap gives starts 16 bytes into one, and then the kernel's copy takes 0.2 CPU-s instead of 0.08. hashlib
and blake3 release the interpreter lock, so a second thread halves nearly all of it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from blake3 import blake3

from holdfast.errors import UnreadableArtifact

if TYPE_CHECKING:
    from concurrent.futures import Future

CHUNK = 1 << 20  # bytes
_DEPTH = 4  # chunks in flight between the reader and the slowest hash
_WORTH_THREADS = 8 << 20  # bytes; a smaller file is hashed before a thread has started
_READING = 0.11  # CPU-seconds per GiB, as the costs below
_HANDOVER = 0.05  # what it costs another core to fetch the bytes
_WORTH_IT = 1.4  # times as fast, or the second core is not bothered


class Hasher(Protocol):
    """What hashlib and blake3 make."""

    def update(self, data: memoryview, /) -> object:
        """Take more bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        ...


class Sink(Protocol):
    """Takes all bytes of a file, once and in order; must not keep a view beyond the call.

    A sink may have ``cost`` (CPU-seconds per GiB), which says on which thread it goes.
    """

    def update(self, data: memoryview, /) -> object:
        """Take the next bytes."""
        ...


ALGORITHMS: Mapping[str, Callable[[], Hasher]] = {
    "sha256": hashlib.sha256,
    "blake2b": hashlib.blake2b,
    "blake3": blake3,
}
_COSTS = {"sha256": 0.6, "blake2b": 0.9, "blake3": 0.17}


class Whole:
    """The digest of a whole file by one of :data:`ALGORITHMS`."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm, self.cost = algorithm, _COSTS[algorithm]
        self._hasher = ALGORITHMS[algorithm]()

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""
        self._hasher.update(data)

    def digest(self) -> str:
        """Return the digest (hex)."""
        return self._hasher.hexdigest()


class Spans:
    """The digests of ranges of a file, which may leave gaps and must not overlap: tensors, or shards.

    Args:
        spans: (offset, length) in bytes, in any order.
        algorithm: one of :data:`ALGORITHMS`.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], algorithm: str = "blake3") -> None:
        self.algorithm, self.cost = algorithm, _COSTS[algorithm]
        self._spans = tuple(spans)
        self._ahead = deque(sorted(span for span in self._spans if span[1]))
        self._digests: dict[tuple[int, int], str] = {}
        self._place = 0
        self._hasher: Hasher | None = None

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""
        start, stop = self._place, self._place + len(data)
        while self._ahead and self._ahead[0][0] < stop:
            offset, length = self._ahead[0]
            self._hasher = self._hasher or ALGORITHMS[self.algorithm]()
            self._hasher.update(data[max(offset, start) - start : min(offset + length, stop) - start])
            if offset + length > stop:
                break
            self._digests[self._ahead.popleft()] = self._hasher.hexdigest()
            self._hasher = None
        self._place = stop

    def digests(self) -> tuple[str, ...]:
        """Return the digests (hex), in the order in which the spans were given.

        Raises:
            UnreadableArtifact: the file ended before a span did.
        """
        if self._ahead:
            raise UnreadableArtifact(f"the file ends before its bytes {self._ahead[0][0]} and following")
        nothing = ALGORITHMS[self.algorithm]().hexdigest()
        return tuple(self._digests[span] if span[1] else nothing for span in self._spans)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells by and large whether a file changed, without reading it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        """Return the stamp of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def read_pass(
    descriptor: int, sinks: Sequence[Sink], *, threads: int = 1, name: str = "the file", before: Stamp | None = None
) -> Stamp:
    """Feed all bytes of an open file to ``sinks`` and return what stamp it had throughout.

    Args:
        descriptor: of a regular file; its own position is neither used nor moved.
        sinks: each gets every byte once, in order, though on different threads.
        threads: how many may work; the reading one counts.
        name: of the file, for messages.
        before: what the stamp was when the caller first looked; from now on by default.

    Raises:
        UnreadableArtifact: it cannot be read, or changed while it was.
    """
    before = before or Stamp.of(descriptor)
    groups = _groups(sinks, threads if before.size >= _WORTH_THREADS else 1)
    try:
        count = _feed_all(descriptor, groups, before.size)
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {name}: {error.strerror or error}") from error
    if count != before.size or Stamp.of(descriptor) != before:
        raise UnreadableArtifact(f"{name} changed while it was read", hint="let no other program write to the model")
    return before


def _groups(sinks: Sequence[Sink], threads: int) -> list[list[Sink]]:
    """Spread sinks over threads, the costliest first, each to the thread with least to do; the first one reads too."""
    if threads < 2:
        return [list(sinks)]
    groups: list[list[Sink]] = [[] for _ in range(max(1, min(threads, 1 + len(sinks))))]
    loads = [_READING] + [_HANDOVER] * (len(groups) - 1)
    for sink in sorted(sinks, key=_cost, reverse=True):
        place = min(range(len(groups)), key=lambda number: loads[number])
        groups[place].append(sink)
        loads[place] += _cost(sink)
    alone = _READING + sum(map(_cost, sinks))
    return [groups[0], *filter(None, groups[1:])] if alone > _WORTH_IT * max(loads) else [list(sinks)]


def _cost(sink: Sink) -> float:
    return float(getattr(sink, "cost", 0.5))


def _feed_all(descriptor: int, groups: list[list[Sink]], size: int) -> int:
    """Return how many bytes there were; stops at ``size`` of them, so that a growing file ends too."""
    if len(groups) > 1:
        return _pipelined(descriptor, groups, size)
    buffer, place = _own_buffer(), 0
    end = max(size, 1)  # a file said to be empty is asked: those of /proc are not
    while place < end and (count := os.preadv(descriptor, [buffer], place)):
        _feed(groups[0], buffer[:count])
        place += count
    return place


_kept = threading.local()


def _own_buffer() -> memoryview:
    """Return this thread's buffer of one chunk, made once: a new one for each file would cost as much as its bytes."""
    if not hasattr(_kept, "buffer"):
        _kept.buffer = _page_buffer()
    return cast(memoryview, _kept.buffer)


def _page_buffer() -> memoryview:
    """Return memory of this process alone: what mmap gives by default a forked process would write to as well."""
    return memoryview(mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _pipelined(descriptor: int, groups: list[list[Sink]], size: int) -> int:
    """Read and feed the first group on this thread, each other group on one of its own, a few chunks behind."""
    from concurrent.futures import ThreadPoolExecutor

    place = 0
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in groups[1:]]
        ring: deque[tuple[memoryview, list[Future[None]]]]
        ring = deque((_page_buffer(), []) for _ in range(_DEPTH))
        while place < size:
            buffer, busy = ring.popleft()
            _finish(busy)
            count = os.preadv(descriptor, [buffer], place)
            part = buffer[:count]
            tasks = [pool.submit(_feed, group, part) for pool, group in zip(pools, groups[1:], strict=True)]
            ring.append((buffer, tasks))
            if not count:
                break
            _feed(groups[0], part)
            place += count
        for _, busy in ring:
            _finish(busy)
    return place


def _finish(tasks: list[Future[None]]) -> None:
    for task in tasks:
        task.result()


def _feed(sinks: list[Sink], part: memoryview) -> None:
    for sink in sinks:
        sink.update(part)


def usable_threads() -> int:
    """Return how many threads are worth starting: the cores this process may use, at most 16."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)


class Recorder:
    """Reads parts of an open file and remembers their digests, so that the pass over it can confirm them.

    What an index says was read before the pass; only bytes that the pass saw again count as read.
    """

    _BLOCK = 1 << 16  # bytes; parts are read in whole blocks, so that no two overlap

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self._digests: dict[int, str] = {}
        self._last = (-1, b"")

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; raise :class:`UnreadableArtifact` where the file has fewer."""
        first, last = offset // self._BLOCK, -(-(offset + length) // self._BLOCK)
        data = b"".join(self._block(number) for number in range(first, last))
        start = offset - first * self._BLOCK
        if len(data) < start + length:
            raise UnreadableArtifact("the file is shorter than its own index says", hint="is it whole?")
        return data[start : start + length]

    def _block(self, number: int) -> bytes:
        if self._last[0] != number:
            data = os.pread(self._descriptor, self._BLOCK, number * self._BLOCK)
            self._last = (number, data)
            digest = blake3(data).hexdigest()
            if self._digests.setdefault(number, digest) != digest:
                raise UnreadableArtifact("the file changed while it was read")
        return self._last[1]

    def sink(self) -> Spans:
        """Return what digests the same parts in the pass."""
        size = self._size
        return Spans([(n * self._BLOCK, min(self._BLOCK, size - n * self._BLOCK)) for n in self._digests])

    def confirm(self, sink: Spans) -> None:
        """Raise :class:`UnreadableArtifact` unless the pass saw what was read before."""
        if sink.digests() != tuple(self._digests.values()):
            raise UnreadableArtifact("the file changed between its index and its bytes")


def windows(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the shards of ``size`` bytes, ``step`` bytes each, the last one shorter."""
    for start in range(0, size, step):
        yield start, min(step, size - start)
