"""Single-use masks from a stream cipher: mask number ``n`` is AES-256-CTR keystream number ``n``.

A number leaves the stream once. Numbers are reserved in blocks, and the counter is advanced past a block *before* its
first number is used: a crash can skip numbers, never repeat one. Threads may share a stream; a forked process may not.

The keystream's key is derived from the one given and from the counter's identity. So the same key may seal files, and
two streams over different counters share no mask.
"""

from __future__ import annotations

import math
import struct
from threading import Lock

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from holdfast.errors import IntegrityError, InvalidConfig
from holdfast.seeds import Entropy
from holdfast.shielding.checking import require_entropy
from holdfast.shielding.own_process import OwnProcess
from holdfast.shielding.sealing.aead import KEY_BYTES, subkey
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
        self._cipher = algorithms.AES(subkey(key, "masks", counter.identity.hex()))
        self._counter, self._lock, self._process = counter, Lock(), OwnProcess("a stream of masks")
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
            InvalidConfig: all numbers are used up, so take a new key; this process was forked off; or ``count`` is
                no number of masks.
            IntegrityError: the counter went back.
        """
        if type(count) is not int or count < 0:
            raise InvalidConfig(f"{count!r} is no number of masks", hint="an int, 0 or more")
        self._process.require()
        with self._lock:
            if self._next + count > self._reserved:
                self._reserve_block(count)
            numbers = range(self._next, self._next + count)
            self._next = numbers.stop
            return numbers

    def _reserve_block(self, count: int) -> None:
        """Bring the counter further; where somebody else did, too, begin behind what he has."""
        while not self._advanced(count):
            pass  # each time, somebody else has got further, so one of all always does

    def _advanced(self, count: int) -> bool:
        """Return whether the counter is further by this; if not, another stream was faster since it was read."""
        now = self._counter.read()
        first = self._next if now == self._reserved else now
        if (beyond := first + count) >= _MOST:
            raise InvalidConfig("this key has no masks left", hint="open a new session, with a new key")
        try:
            self._counter.advance(beyond + _BLOCK, after=now)
        except IntegrityError:
            if self._counter.read() > now:
                return False
            raise
        self._next, self._reserved = first, beyond + _BLOCK
        return True

    def words(self, numbers: range, shape: tuple[int, ...]) -> Tensor:
        """Return the masks with these numbers, int32, shape (len(numbers), *shape).

        Raises:
            InvalidConfig: this process was forked off since the stream was made.
        """
        self._process.require()
        size = 4 * math.prod(shape)
        stream = np.empty((len(numbers), size), dtype=np.uint8)
        zeros = bytes(size)
        for row, number in zip(stream, numbers, strict=True):
            encryptor = Cipher(self._cipher, modes.CTR(_NONCE.pack(number, 0))).encryptor()
            row[:] = np.frombuffer(encryptor.update(zeros), dtype=np.uint8)
        return torch.from_numpy(stream.view("<i4")).view(len(numbers), *shape)

    def __repr__(self) -> str:
        return f"MaskStream(key=..., next={self._next})"
