"""LtHash on the device: digests of elements expanded to 1024 lanes of 16 bits and summed, without leaving it.

Bellare and Micciancio (EUROCRYPT 1997) and Lewi et al. (2019), as in :mod:`holdfast.data.commitments.multiset`. The
expansion is BLAKE3's extendable output: the one block of a digest is compressed under counters 0 to 31, and each gives
32 lanes.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from holdfast._kernels.blake3_key import DERIVE_KEY_MATERIAL, context_key
from holdfast._kernels.blake3_rounds import CHUNK_END, CHUNK_START, ROOT, compress
from holdfast._kernels.blake3_tree import key_words
from holdfast._kernels.compiling import kernel
from holdfast.errors import InvalidConfig

_LATTICE = 1024  # lanes of the hash
_TOGETHER = 4  # elements of one program: a warp, of which each thread has one of the 32 blocks
_AT_ONCE = 1 << 15  # elements of one launch, whose sums take 32 MiB


@kernel("count", "flags")
def add_expansions(
    digests: tl.tensor, key: tl.tensor, sums: tl.tensor, count: tl.tensor, flags: tl.tensor,
    ELEMENTS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Add up the expansions of a few elements: a lane per element and block, so that a thread adds what is its own.

    Args:
        digests: int32 (count, 8).
        key: int64 (8,).
        sums: int32 (programs, 1024), out.
        count: elements.
        flags: of the mode.
        ELEMENTS: of one program.
    """
    element = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)[:, None]
    block = tl.arange(0, 32)
    inside = element < count
    zero = tl.zeros([ELEMENTS, 32], tl.uint32)
    base = digests + element * 8
    m = (
        zero + _word(base, 0, inside), zero + _word(base, 1, inside), zero + _word(base, 2, inside),
        zero + _word(base, 3, inside), zero + _word(base, 4, inside), zero + _word(base, 5, inside),
        zero + _word(base, 6, inside), zero + _word(base, 7, inside),
        zero, zero, zero, zero, zero, zero, zero, zero,
    )  # fmt: skip
    marks = zero + flags.to(tl.uint32) + (CHUNK_START | CHUNK_END | ROOT)
    o = compress(key_words(key, zero), m, zero + block.to(tl.uint32)[None, :], zero, zero + 32, marks)
    where = sums + tl.program_id(0).to(tl.int64) * 1024 + block * 32
    for word in tl.static_range(16):
        tl.store(where + 2 * word, tl.sum(tl.where(inside, o[word] & 0xFFFF, 0).to(tl.int32), 0))
        tl.store(where + 2 * word + 1, tl.sum(tl.where(inside, o[word] >> 16, 0).to(tl.int32), 0))


@kernel()
def _word(base: tl.tensor, word: tl.constexpr, inside: tl.tensor) -> tl.tensor:
    return tl.load(base + word, mask=inside, other=0).to(tl.uint32, bitcast=True)


def lane_sums(digests: Tensor, context: str) -> Tensor:
    """Return the sum of the lanes of many elements: int64, shape (1024,), each below 2**16, on their device.

    Sums of ranks do not overflow, so they are all-reduced as they are and then taken modulo 2**16.

    Args:
        digests: uint8, contiguous, shape (n, 32).
        context: under which elements are expanded.

    Raises:
        InvalidConfig: something else than digests.
    """
    if digests.dtype != torch.uint8 or digests.dim() != 2 or digests.shape[1] != 32 or not digests.is_contiguous():
        raise InvalidConfig(f"digests are 32 bytes each, not {digests.dtype} of shape {tuple(digests.shape)}")
    device = digests.device
    key = torch.tensor(context_key(context), dtype=torch.int64).to(device)
    words = (digests if digests.data_ptr() % 4 == 0 else digests.clone()).view(torch.int32)
    total = torch.zeros(_LATTICE, dtype=torch.int64, device=device)
    for part in words.split(_AT_ONCE):
        sums = torch.empty(-(-len(part) // _TOGETHER), _LATTICE, dtype=torch.int32, device=device)
        with torch.cuda.device_of(digests):
            if len(sums):
                add_expansions[(len(sums),)](
                    part, key, sums, len(part), DERIVE_KEY_MATERIAL, ELEMENTS=_TOGETHER, num_warps=1
                )
        total += sums.sum(0)
    return total & 0xFFFF
