"""The tree of an outboard: how digests join, how a file falls into groups, and proofs for some of them.

Three derived keys separate leaves, nodes and roots, so that none of the three can pass for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact

_LEAF, _NODE, _ROOT = (
    blake3(derive_key_context=f"holdfast 2026 outboard {kind} v1").digest() for kind in ("leaf", "node", "root")
)


def leaf_digest(data: bytes | bytearray | memoryview) -> bytes:
    """Return the digest of one group's bytes."""
    return blake3(data, key=_LEAF).digest()


def join(left: bytes, right: bytes) -> bytes:
    """Return the digest of two neighbouring digests."""
    return blake3(left + right, key=_NODE).digest()


def root_digest(shape: Shape, top: bytes) -> bytes:
    """Return the root: the top of the tree bound to the size of the file and of its groups."""
    lengths = shape.size.to_bytes(8, "little") + shape.group.to_bytes(4, "little")
    return blake3(lengths + top, key=_ROOT).digest()


@dataclass(frozen=True, slots=True)
class Shape:
    """How a file of ``size`` bytes falls into groups of ``group`` bytes."""

    size: int
    group: int

    @property
    def count(self) -> int:
        """Number of groups; an empty file has one, which is empty."""
        return max(1, -(-self.size // self.group))

    def span(self, number: int) -> tuple[int, int]:
        """Return the bytes (start, stop) of group ``number``."""
        return number * self.group, min((number + 1) * self.group, self.size)

    def groups(self, start: int, stop: int) -> range:
        """Return the groups that bytes ``start`` to ``stop`` touch; an empty range touches the one it lies in.

        Raises:
            InvalidConfig: the range is not inside the file.
        """
        if not 0 <= start <= stop <= self.size:
            raise InvalidConfig(f"bytes {start}:{stop} are not inside a file of {self.size} bytes")
        first = min(start // self.group, self.count - 1)
        return range(first, max(first + 1, -(-stop // self.group)))


@dataclass(frozen=True, slots=True)
class Proof:
    """Digests that join the groups ``wanted`` to the root: those of all other branches, from left to right."""

    shape: Shape
    wanted: range
    digests: tuple[bytes, ...]

    @property
    def span(self) -> tuple[int, int]:
        """The bytes (start, stop) that go with this proof: whole groups."""
        return self.shape.span(self.wanted.start)[0], self.shape.span(self.wanted.stop - 1)[1]

    def verify(self, data: bytes | memoryview, root: str) -> None:
        """Return if ``data`` are the bytes :attr:`span` of the file whose signed root (hex) is ``root``.

        Raises:
            DigestMismatch: other bytes, another place, another size, or digests left over.
        """
        start, stop = self.span
        digests = iter(self.digests)
        if len(data) != stop - start or root_digest(self.shape, self._top(memoryview(data), digests)).hex() != root:
            raise DigestMismatch(f"bytes {start}:{stop} do not belong to the signed root {root[:16]}...")
        if next(digests, None) is not None:
            raise DigestMismatch("the proof holds more digests than the range needs")

    def _top(self, data: memoryview, digests: Iterator[bytes]) -> bytes:
        count = self.shape.count
        base = self.wanted.start * self.shape.group

        def walk(level: int, index: int) -> bytes:
            first, last = index << level, min((index + 1) << level, count)
            if last <= self.wanted.start or first >= self.wanted.stop:
                return _next(digests)
            if not level:
                begin, end = self.shape.span(index)
                return leaf_digest(data[begin - base : end - base])
            left = walk(level - 1, 2 * index)
            if (2 * index + 1) << (level - 1) >= count:
                return left  # a node without a partner moves up unchanged
            return join(left, walk(level - 1, 2 * index + 1))

        return walk((count - 1).bit_length(), 0)

    def to_bytes(self) -> bytes:
        """Return size, group, first group, number of groups (little-endian u64 each), then the digests."""
        numbers = (self.shape.size, self.shape.group, self.wanted.start, len(self.wanted))
        return b"".join(number.to_bytes(8, "little") for number in numbers) + b"".join(self.digests)

    @classmethod
    def from_bytes(cls, data: bytes) -> Proof:
        """Read a proof, which proves nothing until :meth:`verify`.

        Raises:
            UnreadableArtifact: malformed, or groups outside the file it speaks of.
        """
        size, group, first, count = (int.from_bytes(data[at : at + 8], "little") for at in range(0, 32, 8))
        sound = len(data) >= 32 and len(data) % 32 == 0 and 1 << 10 <= group <= 1 << 20 and not group & (group - 1)
        if not sound or not count or first + count > Shape(size, group).count:
            raise UnreadableArtifact("this is no proof of a range")
        digests = tuple(data[at : at + 32] for at in range(32, len(data), 32))
        return cls(Shape(size, group), range(first, first + count), digests)


def _next(digests: Iterator[bytes]) -> bytes:
    digest = next(digests, None)
    if digest is None:
        raise DigestMismatch("the proof holds fewer digests than the range needs")
    return digest
