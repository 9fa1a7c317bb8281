"""LtHash16x1024: a digest of a multiset that any order, split and merge of its elements agree on.

After Bellare and Micciancio (EUROCRYPT 1997) and Lewi et al., "Securing Update Propagation with Homomorphic Hashing"
(2019): each element becomes a vector of 1024 lanes of 16 bits by an extendable-output hash, and the digest of a
multiset is the sum, lane by lane modulo 2**16. There is nothing to configure: fewer or narrower lanes are broken by
lattice reduction in seconds.

The sum alone does not see 65,536 copies of one element, so the number of elements and their bytes are bound into the
digest, and everything built on it in this package keeps keys unique.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from blake3 import blake3

from holdfast.errors import InvalidConfig, UnreadableArtifact

LANES, BITS = 1024, 16
STATE = LANES * BITS // 8  # bytes
EXPANSION_CONTEXT = "holdfast 2026 dataset lattice v1"
DIGEST_CONTEXT = "holdfast 2026 dataset multiset v1"
_LIMIT = 2**64
_AT_ONCE = 32  # expansions summed in one pass: a 64 KiB block, which stays in the cache

Lanes = np.ndarray[tuple[int], np.dtype[np.uint16]]


def expand(digest: bytes) -> bytes:
    """Return the 1024 lanes of an element with this 32-byte digest: 2048 bytes, lanes little-endian."""
    return blake3(digest, derive_key_context=EXPANSION_CONTEXT).digest(STATE)


def lane_sum(digests: Iterable[bytes]) -> Lanes:
    """Return the sum of the lanes of many elements, modulo 2**16."""
    total, rest = np.zeros(LANES, np.uint16), iter(digests)
    while block := [
        blake3(digest, derive_key_context=EXPANSION_CONTEXT).digest(STATE) for digest in islice(rest, _AT_ONCE)
    ]:
        lanes = np.frombuffer(b"".join(block), "<u2").reshape(-1, LANES)
        total += lanes.sum(axis=0, dtype=np.uint16)  # wraps around, which is the arithmetic wanted
    return total


@dataclass(frozen=True, eq=False)
class MultisetHash:
    """An immutable sum of elements; ``+`` merges, ``-`` takes away.

    Attributes:
        state: 2048 bytes, lane 0 first, each lane little-endian.
        count: elements, below 2**64.
        size: bytes of their fields, below 2**64.
    """

    state: bytes = bytes(STATE)
    count: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        if len(self.state) != STATE:
            raise UnreadableArtifact(
                f"a multiset state has {STATE} bytes (1024 lanes of 16 bits), not {len(self.state)}"
            )
        if not (0 <= self.count < _LIMIT and 0 <= self.size < _LIMIT):
            raise InvalidConfig(
                f"a multiset of {self.count} elements and {self.size} bytes cannot be",
                hint="only what is in it can be taken away",
            )
        if self.count == 0 and (self.size or any(self.state)):
            raise InvalidConfig("a multiset of no elements has a state", hint="only what is in it can be taken away")

    @classmethod
    def of(cls, digests: Iterable[bytes], *, size: int) -> MultisetHash:
        """Return the hash of elements with these digests, ``size`` bytes together."""
        listed = list(digests)
        return cls.from_lanes(lane_sum(listed), len(listed), size)

    @classmethod
    def from_lanes(cls, lanes: Lanes, count: int, size: int) -> MultisetHash:
        """Return the hash with these 1024 lanes."""
        return cls(np.ascontiguousarray(lanes, "<u2").tobytes(), count, size)

    @property
    def lanes(self) -> Lanes:
        """The state as uint16, shape (1024,), a copy."""
        return np.frombuffer(self.state, "<u2").astype(np.uint16)

    def __add__(self, other: MultisetHash) -> MultisetHash:
        return self.from_lanes(self.lanes + other.lanes, self.count + other.count, self.size + other.size)

    def __sub__(self, other: MultisetHash) -> MultisetHash:
        return self.from_lanes(self.lanes - other.lanes, self.count - other.count, self.size - other.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MultisetHash):
            return NotImplemented
        return (self.count, self.size, self.state) == (other.count, other.size, other.state)

    def __hash__(self) -> int:
        return hash((self.count, self.size, self.state))

    def __repr__(self) -> str:
        return f"MultisetHash({self.digest[:16]}, count={self.count}, size={self.size})"

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) of count, bytes and state under a context of its own."""
        head = self.count.to_bytes(8, "little") + self.size.to_bytes(8, "little")
        return blake3(head + self.state, derive_key_context=DIGEST_CONTEXT).hexdigest()
