"""Secure memory for masks and unblinding vectors: a limit that is kept, whether they were prepared or are in use."""

from __future__ import annotations

from threading import Lock

from holdfast.errors import InvalidConfig, StorageError

_NO_LIMIT = 2**63


class Budget:
    """How much memory masks and unblinding vectors may take, over all layers of a session.

    Args:
        limit: bytes, at least one; None is no limit.

    Attributes:
        used: bytes taken.
        kept: bytes that prepared vectors leave to a sample on its way.

    Raises:
        InvalidConfig: a limit below one byte.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise InvalidConfig(f"a memory limit of {limit} bytes holds nothing", hint="None is no limit")
        self._limit, self._lock = _NO_LIMIT if limit is None else limit, Lock()
        self.used = self.kept = 0

    @property
    def left(self) -> int:
        """Bytes not taken."""
        return self._limit - self.used

    @property
    def free(self) -> int:
        """Bytes that prepared vectors may still take."""
        return max(self.left - self.kept, 0)

    def keep(self, size: int) -> None:
        """Leave at least ``size`` bytes to a sample on its way.

        Raises:
            InvalidConfig: that is more than there is.
        """
        if size > self._limit:
            raise InvalidConfig(
                f"one sample takes {size} bytes of masks in one layer, and {self._limit} are allowed",
                hint="allow more memory, or place large layers trusted or verified",
            )
        self.kept = max(self.kept, size)

    def take(self, size: int) -> None:
        """Take ``size`` bytes.

        Raises:
            StorageError: they are not left.
        """
        with self._lock:
            if size > self.left:
                raise StorageError(
                    f"the memory for masks is full: {self}, {size} more asked for",
                    hint="allow more memory, or send fewer samples at a time",
                )
            self.used += size

    def give(self, size: int) -> None:
        """Give ``size`` bytes back."""
        with self._lock:
            self.used -= size

    def __str__(self) -> str:
        if self._limit == _NO_LIMIT:
            return f"{self.used} bytes without a limit"
        return f"{self.used} of {self._limit} bytes, {self.kept} of them for a sample on its way"
