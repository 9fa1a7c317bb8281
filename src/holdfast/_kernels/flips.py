"""XOR of errors into memory, and counts of set and of differing bits, as kernels."""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.compiling import kernel


@kernel()
def ones(word: tl.tensor) -> tl.tensor:
    """Return the set bits of each uint32: Warren, *Hacker's Delight*, section 5-1."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@kernel()
def _ones_of(values: tl.tensor) -> tl.tensor:
    """Return the set bits of each value, uint8 or int32, as int32."""
    return ones(values.to(tl.uint32)).to(tl.int32)


@kernel()
def _read(memory: tl.tensor, place: tl.tensor, size: tl.tensor, whole: tl.tensor) -> tl.tensor:
    """Return what lies at ``place``, zero beyond ``size``; a mask would make reads one element wide."""
    return tl.load(memory + place) if whole else tl.load(memory + place, mask=place < size, other=0)


@kernel("size")
def xor_map(octets: tl.tensor, flags: tl.tensor, counts: tl.tensor, size: tl.tensor, LANES: tl.constexpr) -> None:  # noqa: N803
    """XOR a map into memory, clear it, and count its set bits.

    Args:
        octets: uint8 or int32 (size,), in and out.
        flags: of the same dtype, (size,), in and out, bit j of element i being what flips bit j of element i.
        counts: int64 (programs,), out.
        size: elements.
        LANES: elements of one program.
    """
    first = tl.program_id(0).to(tl.int64) * LANES
    place, whole = first + tl.arange(0, LANES), first + LANES <= size
    if whole:  # memory passes by once, while the map is to stay in the cache
        mask = tl.load(flags + place)
        old = tl.load(octets + place, eviction_policy="evict_first")
        tl.store(octets + place, old ^ mask, eviction_policy="evict_first")
        tl.store(flags + place, tl.zeros_like(mask))
    else:
        inside = place < size
        mask = tl.load(flags + place, mask=inside, other=0)
        tl.store(octets + place, tl.load(octets + place, mask=inside, other=0) ^ mask, mask=inside)
        tl.store(flags + place, tl.zeros_like(mask), mask=inside)
    tl.store(counts + tl.program_id(0), tl.sum(_ones_of(mask), 0).to(tl.int64))


@kernel("words", "total", "first", "skip")
def xor_listed(
    words: tl.tensor, addresses: tl.tensor, total: tl.tensor, first: tl.tensor, skip: tl.tensor,
    BITS: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Flip listed bits of memory; several may share a word.

    Args:
        words: address of int32, in and out, the last multiple of four at or before the memory's first byte.
        addresses: int64 (total,), each once: bit ``a % BITS`` of element ``a // BITS``.
        total: how many there are.
        first: address of the memory's first bit.
        skip: bits of ``words`` before the memory.
        BITS: of an element, which takes one byte where they are fewer than eight and not packed.
        LANES: flips of one program.
    """
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = place < total
    address = tl.load(addresses + place, mask=inside, other=0) - first
    bit = skip + ((address // BITS) * 8 + address % BITS if BITS < 8 else address)
    memory = words.to(tl.int64).to(tl.pointer_type(tl.int32), bitcast=True)
    flip = tl.full([LANES], 1, tl.int32) << (bit & 31).to(tl.int32)
    tl.atomic_xor(memory + (bit >> 5), flip, mask=inside, sem="relaxed")  # ordered by the launch, which is the fence


@kernel("size")
def count_bits(
    left: tl.tensor, right: tl.tensor, counts: tl.tensor, size: tl.tensor, LANES: tl.constexpr, TWO: tl.constexpr  # noqa: N803
) -> None:  # fmt: skip
    """Count the set bits of ``left``, or those in which it differs from ``right``.

    Args:
        left: uint8 or int32 (size,).
        right: of the same dtype, (size,), read only where TWO.
        counts: int64 (programs,), out.
        size: elements.
        LANES: elements of one program.
        TWO: whether to compare.
    """
    first = tl.program_id(0).to(tl.int64) * LANES
    place, whole = first + tl.arange(0, LANES), first + LANES <= size
    word = _read(left, place, size, whole)
    if TWO:
        word = word ^ _read(right, place, size, whole)
    tl.store(counts + tl.program_id(0), tl.sum(_ones_of(word), 0).to(tl.int64))
