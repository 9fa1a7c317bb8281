"""The compression function of BLAKE3, one input per lane.

O'Connor, Aumasson, Neves and Wilcox-O'Hearn, *BLAKE3: one function, fast everywhere* (2020), sections 2.2 and 2.3:
seven rounds of eight G over sixteen words, the message permuted between rounds. Every value is a uint32 tensor of one
lane per input, so a round compiles to plain integer instructions and no lane waits for another.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.compiling import kernel

CHUNK_START, CHUNK_END, PARENT, ROOT = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4), tl.constexpr(8)
_IV0, _IV1, _IV2, _IV3 = (tl.constexpr(word) for word in (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A))


@kernel()
def _mix(a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor, x: tl.tensor, y: tl.tensor) -> tl.tensor:
    a = a + b + x
    d = d ^ a
    d = (d >> 16) | (d << 16)
    c = c + d
    b = b ^ c
    b = (b >> 12) | (b << 20)
    a = a + b + y
    d = d ^ a
    d = (d >> 8) | (d << 24)
    c = c + d
    b = b ^ c
    b = (b >> 7) | (b << 25)
    return a, b, c, d


@kernel()
def compress(
    h: tl.tensor, m: tl.tensor, low: tl.tensor, high: tl.tensor, length: tl.tensor, flags: tl.tensor
) -> tl.tensor:
    """Return the sixteen output words of one compression; the first eight are the next chaining value.

    Args:
        h: eight words, the chaining value.
        m: sixteen words, the message block.
        low: of the counter.
        high: of the counter.
        length: bytes of the block.
        flags: as the paper's table 3.
    """
    v0, v1, v2, v3, v4, v5, v6, v7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
    zero = tl.zeros_like(low)
    v8, v9, v10, v11 = zero + _IV0, zero + _IV1, zero + _IV2, zero + _IV3
    v12, v13, v14, v15 = low, high, length, flags
    for _ in tl.static_range(7):
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[0], m[1])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[2], m[3])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[4], m[5])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[6], m[7])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[8], m[9])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[10], m[11])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[12], m[13])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[14], m[15])
        m = (m[2], m[6], m[3], m[10], m[7], m[0], m[4], m[13], m[1], m[11], m[12], m[5], m[9], m[14], m[15], m[8])
    return (
        v0 ^ v8, v1 ^ v9, v2 ^ v10, v3 ^ v11, v4 ^ v12, v5 ^ v13, v6 ^ v14, v7 ^ v15,
        v8 ^ h[0], v9 ^ h[1], v10 ^ h[2], v11 ^ h[3], v12 ^ h[4], v13 ^ h[5], v14 ^ h[6], v15 ^ h[7],
    )  # fmt: skip
