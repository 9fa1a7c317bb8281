"""Two kinds of randomness that never mix: ``Seed`` for experiments, ``Entropy`` for secrets.

A :class:`Seed` is a 128-bit key of a tree of independent streams: ``derive(seed, "trial", 7)`` depends on
nothing but its arguments, so any shard, process or machine draws the same numbers. :class:`Entropy` comes
from the operating system, cannot be replayed, and is the only type that blinding and key generation accept.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

_ROOT = b"holdfast.seed.v1"


@dataclass(frozen=True, slots=True)
class Seed:
    """The key of one reproducible random stream (128 bits)."""

    key: int

    def words(self) -> tuple[int, int]:
        """Return the key as two unsigned 64-bit words, high word first."""
        return self.key >> 64, self.key & (2**64 - 1)

    def numpy(self) -> np.random.Generator:
        """Return a counter-based (Philox 4x64-10) generator; the same on every platform."""
        import numpy as np

        return np.random.Generator(np.random.Philox(key=np.array(self.words(), dtype=np.uint64)))

    def torch(self) -> torch.Generator:
        """Return a CPU ``torch.Generator`` seeded from the key."""
        import torch

        return torch.Generator().manual_seed(self.words()[1] >> 1)


def derive(seed: Seed | int, *path: str | int) -> Seed:
    """Return the seed at ``path`` below ``seed``.

    Counter-based: the result is a hash of the arguments, independent of call order, process, platform and
    ``PYTHONHASHSEED``. Strings and integers are encoded with their type and length, so no two paths collide.

    Raises:
        InvalidConfig: the root is negative, at or above 2**64, or a path element is neither ``str`` nor ``int``.
    """
    digest = hashlib.blake2b(digest_size=16, person=_ROOT)
    digest.update(_encode_root(seed))
    for part in path:
        digest.update(_encode(part))
    return Seed(int.from_bytes(digest.digest(), "big"))


def _encode_root(seed: Seed | int) -> bytes:
    if isinstance(seed, Seed):
        return b"k" + seed.key.to_bytes(16, "big")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InvalidConfig(f"a seed is an integer in 0 .. 2**64-1, not {seed!r}", hint="pass for example seed=0")
    return b"r" + seed.to_bytes(8, "big")


def _encode(part: str | int) -> bytes:
    if isinstance(part, bool) or not isinstance(part, str | int):
        raise InvalidConfig(f"a seed path holds strings and integers, not {type(part).__name__}")
    kind, text = (b"s", part) if isinstance(part, str) else (b"i", str(part))
    raw = text.encode()
    return kind + len(raw).to_bytes(8, "big") + raw


class Entropy:
    """Unpredictable bytes from the operating system, for keys, masks and challenges.

    It has no seed and no state, so nothing about it can be logged or replayed.
    """

    def bytes(self, count: int) -> bytes:
        """Return ``count`` bytes from ``os.urandom``."""
        return os.urandom(count)

    def uint32(self, *shape: int) -> np.ndarray:
        """Return uniform unsigned 32-bit words of ``shape``."""
        import numpy as np

        return np.frombuffer(self.bytes(4 * _count(shape)), dtype="<u4").reshape(shape).copy()

    def uint64(self, *shape: int) -> np.ndarray:
        """Return uniform unsigned 64-bit words of ``shape``."""
        import numpy as np

        return np.frombuffer(self.bytes(8 * _count(shape)), dtype="<u8").reshape(shape).copy()


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
