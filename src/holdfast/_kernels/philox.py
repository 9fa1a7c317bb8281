"""Philox 4x64 with ten rounds, a counter per lane: the stream that numpy's ``Philox`` gives for the same key.

Salmon et al., *Parallel random numbers: as easy as 1, 2, 3* (SC 2011), section 3.3. numpy counts before it draws, so
its first four words belong to counter 1.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.compiling import kernel

_M0, _M1 = tl.constexpr(0xD2E7470EE14C6C93), tl.constexpr(0xCA5A826395121157)
_W0, _W1 = tl.constexpr(0x9E3779B97F4A7C15), tl.constexpr(0xBB67AE8584CAA73B)


@kernel()
def philox(counter: tl.tensor, k0: tl.tensor, k1: tl.tensor) -> tl.tensor:
    """Return four uint64 words for each ``counter``, uint64 below 2**64; the key is the two words ``k0`` and ``k1``."""
    c0 = counter
    c1, c2, c3 = tl.zeros_like(counter), tl.zeros_like(counter), tl.zeros_like(counter)
    m0, m1 = tl.full(counter.shape, _M0, tl.uint64), tl.full(counter.shape, _M1, tl.uint64)
    w0, w1 = tl.full(counter.shape, _W0, tl.uint64), tl.full(counter.shape, _W1, tl.uint64)
    for _ in tl.static_range(10):
        low0, low1 = c0 * m0, c2 * m1
        high0, high1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + w0, k1 + w1
    return c0, c1, c2, c3
