"""Single-use masks from a stream cipher: mask number ``n`` is AES-256-CTR keystream number ``n``.

A number leaves the stream once. Numbers are reserved in blocks, and the counter is advanced past a block *before* its
first number is used: a crash can skip numbers, never repeat one.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy
from holdfast.shielding.checking import require_entropy
from holdfast.shielding.sealing.aead import KEY_BYTES
from holdfast.shielding.sealing.counter import MonotonicCounter, VolatileCounter

_BLOCK = 1024  # numbers reserved at a time
_MOST = 2**63
_NONCE = struct.Struct(">QQ")  # number of the mask, then the cipher's own count of 16-byte blocks


class MaskStream:
    """Hands out masks uniform over Z/2^32, each once.

    Args:
        key: 32 secret bytes.
        counter: remembers which numbers are gone; as durable as the key is.

    Raises:
        InvalidConfig: a key of another length.
    """

    def __init__(self, key: bytes, counter: MonotonicCounter) -> None:
        if len(key) != KEY_BYTES:
            raise InvalidConfig(f"a mask key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher, self._counter = algorithms.AES(key), counter
        self._next = self._reserved = counter.read()

    @classmethod
    def fresh(cls, entropy: Entropy) -> MaskStream:
        """Return a stream whose key ends with this process.

        Raises:
            InvalidConfig: ``entropy`` is not :class:`~holdfast.seeds.Entropy`.
        """
        require_entropy(entropy, what="a mask")
        return cls(entropy.bytes(KEY_BYTES), VolatileCounter())

    def reserve(self, count: int) -> range:
        """Return ``count`` consecutive numbers that nobody had before.

        Raises:
            InvalidConfig: all numbers are used up; take a new key.
        """
        first, beyond = self._next, self._next + count
        if beyond >= _MOST:
            raise InvalidConfig("this key has no masks left", hint="open a new session, with a new key")
        if beyond > self._reserved:
            self._counter.advance(beyond + _BLOCK)
            self._reserved = beyond + _BLOCK
        self._next = beyond
        return range(first, beyond)

    def words(self, numbers: range, shape: tuple[int, ...]) -> Tensor:
        """Return the masks with these numbers, int32, shape (len(numbers), *shape)."""
        size = 4 * math.prod(shape)
        stream = np.empty((len(numbers), size), dtype=np.uint8)
        zeros = bytes(size)
        for row, number in zip(stream, numbers, strict=True):
            encryptor = Cipher(self._cipher, modes.CTR(_NONCE.pack(number, 0))).encryptor()
            row[:] = np.frombuffer(encryptor.update(zeros), dtype=np.uint8)
        return torch.from_numpy(stream.view("<i4")).view(len(numbers), *shape)

    def __repr__(self) -> str:
        return f"MaskStream(key=..., next={self._next})"
