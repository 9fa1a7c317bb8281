"""Ranged verification: a hash tree over groups of a file, so that one part can be checked without the others.

Leaves are keyed BLAKE3 digests of 256 KiB groups; nodes join two digests; the root binds the file's size and the size
of a group as well. The tree has the shape of BLAKE3's own (the left half is the largest power of two that leaves
something on the right) and of bao's outboards, yet not their values: decision 0014 says why. Bytes are specified in
``docs/formats/outboard.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from holdfast._files import read_bytes
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact
from holdfast.evidence.outboard_proof import Proof, Shape, join, leaf_digest, root_digest

GROUP = 256 << 10  # bytes; small enough to stay in a core's cache between reading and hashing
SMALLEST, LARGEST = 1 << 10, 1 << 20
MAGIC = b"HFOBAO1\n"
_HEADER, _DIGEST = 20, 32
_LIMIT = 1 << 30  # bytes of an outboard: 8 TiB of model in default groups

Piece = bytes | memoryview
Read = Callable[[int, int], Piece]  # (offset, length) -> exactly that many bytes, or fewer at the end


@dataclass(frozen=True)
class Outboard:
    """The leaves of one file's tree: ``size`` bytes in groups of ``group``, the last of which may be short.

    An outboard proves nothing until its :attr:`root` is compared with a signed one, as :meth:`from_bytes` does.
    """

    size: int
    group: int
    leaves: bytes  # 32 bytes a group; an empty file has one empty group

    def __post_init__(self) -> None:
        if len(self.leaves) != _DIGEST * self.shape.count:
            raise UnreadableArtifact(f"an outboard of {self.size} bytes has {len(self.leaves)} bytes of leaves")

    @cached_property
    def shape(self) -> Shape:
        """Size, group and number of groups, checked."""
        return Shape(self.size, require_group(self.group))

    @cached_property
    def root(self) -> str:
        """The root (hex), which a signed manifest records as the file's ``outboard``."""
        return root_digest(self.shape, self._levels[-1][0]).hex()

    @cached_property
    def _levels(self) -> list[list[bytes]]:
        """All digests, leaves first; a node without a partner moves up unchanged, which gives BLAKE3's shape."""
        levels = [[self.leaf(number) for number in range(self.shape.count)]]
        while len(below := levels[-1]) > 1:
            above = [join(below[place], below[place + 1]) for place in range(0, len(below) - 1, 2)]
            levels.append(above + below[len(below) & ~1 :])
        return levels

    def leaf(self, number: int) -> bytes:
        """Return the digest of one group."""
        return self.leaves[number * _DIGEST : (number + 1) * _DIGEST]

    def to_bytes(self) -> bytes:
        """Return the bytes of an ``.obao`` file."""
        return MAGIC + self.size.to_bytes(8, "little") + self.group.to_bytes(4, "little") + self.leaves

    @classmethod
    def from_bytes(cls, data: bytes, *, root: str, size: int) -> Outboard:
        """Read an ``.obao`` file and show that it belongs to the signed ``root`` of a file of ``size`` bytes.

        Raises:
            UnreadableArtifact: malformed, or of another length than the groups need.
            DigestMismatch: another file's outboard, or a changed one.
        """
        if len(data) < _HEADER or data[: len(MAGIC)] != MAGIC:
            raise UnreadableArtifact("this is no outboard", hint=f"it would begin with {MAGIC!r}")
        stated, group = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:20], "little")
        try:
            result = cls(stated, group, data[_HEADER:])
        except InvalidConfig as error:
            raise UnreadableArtifact(f"this is no outboard: {error}") from error
        if result.size != size or result.root != root:
            raise DigestMismatch("the outboard differs from its signed root")
        return result

    @classmethod
    def from_file(cls, path: Path | str, *, root: str, size: int) -> Outboard:
        """Read the ``.obao`` file at ``path`` as :meth:`from_bytes` does."""
        try:
            return cls.from_bytes(read_bytes(path, "outboard", limit=_LIMIT), root=root, size=size)
        except (UnreadableArtifact, DigestMismatch) as error:
            raise type(error)(f"{Path(path).name}: {error}", hint=error.hint) from error

    def check(self, number: int, data: bytes | memoryview, *, name: str = "file") -> None:
        """Return if ``data`` is group ``number``; raise :class:`DigestMismatch` naming the byte range otherwise."""
        start, stop = self.shape.span(number)
        if len(data) != stop - start or leaf_digest(data) != self.leaf(number):
            raise DigestMismatch(f"bytes {start}:{stop} of {name} differ from the signed ones")

    def verify_range(self, read: Read, start: int, stop: int, *, name: str = "file") -> bytes:
        """Return bytes ``start`` to ``stop`` (exclusive), after checking every group they touch and no other.

        Raises:
            InvalidConfig: the range is not inside the file.
            DigestMismatch: changed or missing bytes; names the group.
        """
        checked = bytearray()
        for number in self.shape.groups(start, stop):
            first, last = self.shape.span(number)
            data = bytes(read(first, last - first))  # a copy of our own: checked and used are the same bytes
            self.check(number, data, name=name)
            checked += data[max(start - first, 0) : stop - first]
        return bytes(checked)

    def damaged(self, read: Read) -> Iterator[tuple[int, int]]:
        """Yield the byte range of every group that differs from the signed file, in order."""
        for number in range(self.shape.count):
            start, stop = self.shape.span(number)
            try:
                self.check(number, read(start, stop - start))
            except DigestMismatch:
                yield start, stop

    def prove(self, start: int, stop: int) -> Proof:
        """Return what somebody with the root alone needs to check bytes ``start`` to ``stop``."""
        wanted = self.shape.groups(start, stop)

        def siblings(level: int, index: int) -> Iterator[bytes]:
            first, last = index << level, (index + 1) << level
            if last <= wanted.start or first >= wanted.stop:
                yield self._levels[level][index]
            elif level:
                for child in range(2 * index, min(2 * index + 2, len(self._levels[level - 1]))):
                    yield from siblings(level - 1, child)

        return Proof(self.shape, wanted, tuple(siblings(len(self._levels) - 1, 0)))


def require_group(group: int) -> int:
    """Return ``group`` if it is a power of two between 1 KiB and 1 MiB; raise :class:`InvalidConfig` otherwise."""
    if not SMALLEST <= group <= LARGEST or group & (group - 1):
        raise InvalidConfig(f"groups of {group} bytes", hint="a power of two from 1 KiB to 1 MiB")
    return group


class OutboardBuilder:
    """Builds an outboard from the bytes of a file in order, in pieces of any size."""

    def __init__(self, group: int = GROUP) -> None:
        self._group = require_group(group)
        self._size = 0
        self._leaves = bytearray()
        self._rest = bytearray()  # bytes of the group that is not yet full

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes; whole groups are hashed where they lie."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        if self._rest:
            missing = self._group - len(self._rest)
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) == self._group:
                self._leaves += leaf_digest(self._rest)
                self._rest.clear()
        whole = len(view) - len(view) % self._group
        for place in range(0, whole, self._group):
            self._leaves += leaf_digest(view[place : place + self._group])
        self._rest += view[whole:]

    def finish(self) -> Outboard:
        """Return the outboard of all bytes given."""
        last = leaf_digest(self._rest) if self._rest or not self._size else b""
        return Outboard(self._size, self._group, bytes(self._leaves) + last)


def build_outboard(source: Path | str | BinaryIO | Iterable[Piece], *, group: int = GROUP) -> Outboard:
    """Return the outboard of a file, an open file or the pieces of one, without holding more than a megabyte.

    Raises:
        UnreadableArtifact: the file cannot be read.
    """
    builder = OutboardBuilder(group)
    for piece in _pieces(source):
        builder.update(piece)
    return builder.finish()


def outboard_and_digest(source: Path | str | BinaryIO | Iterable[Piece], *, group: int = GROUP) -> tuple[Outboard, str]:
    """Return the outboard and the plain BLAKE3 (hex) of the same bytes, read once."""
    builder, whole = OutboardBuilder(group), blake3()
    for piece in _pieces(source):
        whole.update(piece)
        builder.update(piece)
    return builder.finish(), whole.hexdigest()


def _pieces(source: Path | str | BinaryIO | Iterable[Piece]) -> Iterator[Piece]:
    if isinstance(source, Path | str):
        try:
            with Path(source).open("rb", buffering=0) as handle:
                yield from _pieces(handle)
        except OSError as error:
            raise UnreadableArtifact(f"cannot read {source}: {error.strerror or error}") from error
    elif hasattr(source, "readinto"):
        buffer = bytearray(LARGEST)
        while count := source.readinto(buffer):
            yield memoryview(buffer)[:count]
    else:
        yield from source
