"""Reading binary evidence field by field: every length is checked against what is there before anything is taken."""

from __future__ import annotations

from typing import Literal

from holdfast.errors import UnreadableArtifact


class Cursor:
    """Takes fields off the front of ``data``; whoever runs past the end gets :class:`UnreadableArtifact`.

    Args:
        data: the whole structure.
        what: how messages call it.
        order: byte order of its integers.
    """

    def __init__(self, data: bytes, what: str, order: Literal["big", "little"]) -> None:
        self._data, self.what, self._order, self.place = data, what, order, 0

    @property
    def left(self) -> int:
        """How many bytes have not been taken."""
        return len(self._data) - self.place

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            UnreadableArtifact: there are fewer.
        """
        if count > self.left:
            raise UnreadableArtifact(f"the {self.what} is cut short at byte {len(self._data)}")
        self.place += count
        return self._data[self.place - count : self.place]

    def number(self, size: int) -> int:
        """Return the next ``size`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(size), self._order)

    def block(self, size: int, *, limit: int = 1 << 20) -> bytes:
        """Return a byte string that is preceded by its length in ``size`` bytes, at most ``limit`` long."""
        if (length := self.number(size)) > limit:
            raise UnreadableArtifact(f"the {self.what} announces a field of {length} bytes, more than {limit}")
        return self.take(length)

    def zeros(self, count: int) -> None:
        """Take ``count`` bytes that must be zero: what no signature covers may not carry a message."""
        if any(self.take(count)):
            raise UnreadableArtifact(f"the {self.what} has something other than zeros before byte {self.place}")

    def end(self) -> None:
        """Raise :class:`UnreadableArtifact` if something is left."""
        if self.left:
            raise UnreadableArtifact(f"{self.left} bytes follow the {self.what}")
