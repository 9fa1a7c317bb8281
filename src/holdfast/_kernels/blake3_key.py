"""The key of BLAKE3's derive-key mode, for kernels that hash under a context.

O'Connor et al., *BLAKE3: one function, fast everywhere* (2020), sections 2.3 and 2.6: the hash of the context string,
under a flag of its own, keys the hash of the material. One compression at a time, on Python's integers.
"""

from __future__ import annotations

import functools
import struct

from holdfast.errors import InvalidConfig

IV: tuple[int, ...] = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 32, 64
_CHUNK_START, _CHUNK_END, _ROOT = 1, 2, 8
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
_DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
_LIMIT, _BLOCK = 1024, 64


@functools.cache
def context_key(context: str) -> tuple[int, ...]:
    """Return the eight words that key the derive-key mode under ``context``.

    Raises:
        InvalidConfig: a context of more than 1024 bytes.
    """
    data, words = context.encode(), IV
    if len(data) > _LIMIT:
        raise InvalidConfig(f"a context of {len(data)} bytes is longer than one chunk ({_LIMIT} bytes)")
    blocks = max(1, -(-len(data) // _BLOCK))
    for number in range(blocks):
        part = data[number * _BLOCK : (number + 1) * _BLOCK]
        flags = DERIVE_KEY_CONTEXT | (_CHUNK_START if number == 0 else 0)
        flags |= _CHUNK_END | _ROOT if number == blocks - 1 else 0
        words = _compress(words, struct.unpack("<16I", part.ljust(_BLOCK, b"\0")), len(part), flags)
    return words


def _compress(chain: tuple[int, ...], message: tuple[int, ...], length: int, flags: int) -> tuple[int, ...]:
    state, m = [*chain, *IV[:4], 0, 0, length, flags], list(message)
    for _ in range(7):
        for number, places in enumerate(_COLUMNS + _DIAGONALS):
            _mix(state, places, m[2 * number], m[2 * number + 1])
        m = [m[place] for place in _PERMUTATION]
    return tuple(low ^ high for low, high in zip(state[:8], state[8:], strict=True))


def _mix(state: list[int], places: tuple[int, int, int, int], x: int, y: int) -> None:
    a, b, c, d = places
    for word, turn, back in ((x, 16, 12), (y, 8, 7)):
        state[a] = (state[a] + state[b] + word) & 0xFFFFFFFF
        state[d] = _rotated(state[d] ^ state[a], turn)
        state[c] = (state[c] + state[d]) & 0xFFFFFFFF
        state[b] = _rotated(state[b] ^ state[c], back)


def _rotated(word: int, count: int) -> int:
    return (word >> count | word << (32 - count)) & 0xFFFFFFFF
