"""From signed entries to verified memory: read into a private buffer, hash that buffer, compare, and only then return.

Whoever rewrites the file meanwhile is either too late, because the buffer is ours, or refused, because the hash is of
the buffer. Nothing is returned from a read that failed: its buffer is dropped with the exception.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from blake3 import blake3

from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig
from holdfast.evidence.beside import OUTBOARDS
from holdfast.evidence.model_manifest import TensorEntry
from holdfast.evidence.outboard import SMALLEST, Outboard
from holdfast.evidence.outboard_proof import leaf_digest
from holdfast.signing.oms.serialization import HASHES
from holdfast.signing.opened.content import Listed
from holdfast.signing.opened.source import PIECE, Folder, OpenFile, populate, private_buffer

_ALIGN = 64  # bytes: where a slice begins in its buffer


class Memory:
    """Reads of one model; safe to use from several threads. ``bytes_read`` counts what came from its files."""

    def __init__(self, folder: Folder, *, single: bool) -> None:
        self._folder, self._single = folder, single
        self._open: dict[str, OpenFile] = {}
        self._outboards: dict[str, Outboard | None] = {}
        self._lock = threading.Lock()
        self.bytes_read = 0

    def file(self, listed: Listed) -> memoryview:
        """Return the whole of one file.

        Raises:
            DigestMismatch: missing, of another length or content, or changed while it was read.
        """
        with self.opened(listed) as handle:
            buffer, hasher = private_buffer(handle.size), HASHES[listed.algorithm]()
            self._fill(handle, buffer, 0, hasher)
        if hasher.hexdigest() != listed.digest:
            raise DigestMismatch(f"{listed.name} differs from its signed digest")
        return buffer.toreadonly()

    def tensor(self, listed: Listed, entry: TensorEntry) -> memoryview:
        """Return the bytes of one tensor.

        Raises:
            DigestMismatch: names file, tensor and bytes.
        """
        buffer, hasher = private_buffer(entry.length), blake3()
        self._fill(self._handle(listed), buffer, entry.offset, hasher)
        if hasher.hexdigest() != entry.blake3:
            raise DigestMismatch(self._where(listed, entry) + self._damage(listed, entry, buffer))
        return buffer

    def part(self, listed: Listed, entry: TensorEntry, start: int, stop: int) -> memoryview | None:
        """Return bytes ``start`` to ``stop`` of a tensor, or None where only the whole of it can be verified.

        Only the groups that hold these bytes are read.

        Raises:
            DigestMismatch: names file, tensor and group.
        """
        outboard = self._outboard(listed)
        if outboard is None:
            return None
        start, stop = entry.offset + start, entry.offset + stop
        groups = outboard.shape.groups(start, stop)
        first, last = outboard.shape.span(groups.start)[0], outboard.shape.span(groups.stop - 1)[1]
        pad = (first - start) % _ALIGN
        whole, handle = private_buffer(pad + last - first), self._handle(listed)
        buffer = whole[pad:]
        for number in groups:
            begin, end = outboard.shape.span(number)
            piece = buffer[begin - first : end - first]
            populate(whole, pad * (begin > first) + begin - first, pad + end - first)
            self._fill(handle, piece, begin)
            outboard.check(number, piece, name=f"{listed.name} (tensor {entry.name})")
        return buffer[start - first : stop - first]

    def outboard_check(self, listed: Listed, start: int, stop: int) -> memoryview | None:
        """Return bytes ``start`` to ``stop`` of a file, or None where it has no outboard."""
        whole = TensorEntry(listed.name, listed.name, "u8", (), 0, 0, "")
        return self.part(listed, whole, start, stop)

    def damaged(self, listed: Listed) -> Iterator[tuple[int, int]]:
        """Yield the byte range of every group that differs from the signed file."""
        outboard = self._outboard(listed)
        if outboard is None:
            raise InvalidConfig(f"{listed.name} has no outboard", hint="sign with outboards to find damaged ranges")
        handle, buffer = self._handle(listed), private_buffer(outboard.group)

        def read(offset: int, length: int) -> memoryview:
            self._fill(handle, buffer[:length], offset)
            return buffer[:length]

        yield from outboard.damaged(read)

    def index(self, listed: Listed) -> tuple[Callable[[int, int], bytes], int]:
        """Return an *unverified* reader and the size of a file, for comparing its header with signed entries."""
        handle = self._handle(listed)

        def read(offset: int, length: int) -> bytes:
            buffer = memoryview(bytearray(length))
            self._fill(handle, buffer, offset)
            return bytes(buffer)

        return read, handle.size

    def require_present(self, listed: Listed) -> None:
        """Return if the file is there and has its signed length; raise as :meth:`file` does otherwise."""
        with self.opened(listed):
            pass

    def _handle(self, listed: Listed) -> OpenFile:
        """Return the open file; it stays open until :meth:`close`, so that one file serves all its tensors."""
        with self._lock:
            if listed.name not in self._open:
                self._open[listed.name] = self._folder.open(listed.name)
            return _require_size(listed, self._open[listed.name])

    @contextmanager
    def opened(self, listed: Listed) -> Iterator[OpenFile]:
        """Yield a file of the signed length, not verified.

        It is closed again, because a model may have more files than a process may hold open.
        """
        handle = self._folder.open(listed.name)
        try:
            yield _require_size(listed, handle)
        finally:
            handle.close()

    def _fill(self, handle: OpenFile, buffer: memoryview, offset: int, *hashers: Any) -> None:
        handle.read_into(buffer, offset, *hashers)
        with self._lock:
            self.bytes_read += len(buffer)

    def _where(self, listed: Listed, entry: TensorEntry) -> str:
        begin, end = entry.offset, entry.offset + entry.length
        return f"{entry.name} in {listed.name} (bytes {begin}:{end}) differs from its signed digest"

    def _damage(self, listed: Listed, entry: TensorEntry, buffer: memoryview) -> str:
        """Return where a refused tensor differs first, where an outboard tells; edges shared with neighbours cannot."""
        try:
            outboard = self._outboard(listed)
        except HoldfastError:
            return ""  # the refusal of the tensor is the news
        if outboard is None:
            return ""
        spans = map(outboard.shape.span, outboard.shape.groups(entry.offset, entry.offset + entry.length))
        for number, (start, stop) in enumerate(spans, entry.offset // outboard.group):
            begin, end = start - entry.offset, stop - entry.offset
            if begin >= 0 and end <= entry.length and leaf_digest(buffer[begin:end]) != outboard.leaf(number):
                return f", first in bytes {start}:{stop} of the file"
        return ""

    def _outboard(self, listed: Listed) -> Outboard | None:
        """Return the outboard that belongs to the signed root, if there is a root and a file."""
        if not listed.outboard or listed.size is None:
            return None
        with self._lock:
            if listed.name not in self._outboards:
                self._outboards[listed.name] = self._read_outboard(listed, listed.size)
            return self._outboards[listed.name]

    def _read_outboard(self, listed: Listed, size: int) -> Outboard | None:
        name = f"{listed.name}.obao" if self._single else f"{OUTBOARDS}/{listed.name}.obao"
        try:
            handle = self._folder.open(name)
        except DigestMismatch:
            return None  # it is missing: whole tensors verify without
        try:
            if handle.size > size // SMALLEST * 32 + 64:  # before memory is taken for it
                raise DigestMismatch(f"{name} is longer than an outboard of {size} bytes can be")
            buffer = memoryview(bytearray(handle.size))
            handle.read_into(buffer, 0)
            return Outboard.from_bytes(bytes(buffer), root=listed.outboard, size=size)
        finally:
            handle.close()

    def close(self) -> None:
        """Close every file; memory that was handed out stays valid."""
        with self._lock:
            for handle in self._open.values():
                handle.close()
            self._open.clear()
            self._folder.close()


def hash_whole(handle: OpenFile, algorithm: str) -> str:
    """Return the digest (hex) of a file's bytes."""
    buffer, hasher = private_buffer(min(PIECE, handle.size)), HASHES[algorithm]()
    for place in range(0, handle.size, PIECE):
        handle.read_into(buffer[: min(PIECE, handle.size - place)], place, hasher)
    return str(hasher.hexdigest())


def _require_size(listed: Listed, handle: OpenFile) -> OpenFile:
    if listed.size is not None and handle.size != listed.size:
        raise DigestMismatch(f"{listed.name} has {handle.size} bytes, signed are {listed.size}")
    return handle
