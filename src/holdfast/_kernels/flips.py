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


@kernel("size")
def xor_map(octets: tl.tensor, flags: tl.tensor, counts: tl.tensor, size: tl.tensor, LANES: tl.constexpr) -> None:  # noqa: N803
    """XOR a map into memory, and add its set bits to a count.

    Args:
        octets: uint8 (size,), in and out.
        flags: uint8 (size,), bit j of byte i being what flips bit j of byte i.
        counts: int64 (programs,), out.
        size: bytes.
        LANES: bytes of one program.
    """
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = place < size
    mask = tl.load(flags + place, mask=inside, other=0)
    tl.store(octets + place, tl.load(octets + place, mask=inside, other=0) ^ mask, mask=inside)
    tl.store(counts + tl.program_id(0), tl.sum(ones(mask.to(tl.uint32)).to(tl.int64), 0))


@kernel("words", "total", "first", "bits", "skip")
def xor_listed(
    words: tl.tensor, addresses: tl.tensor, total: tl.tensor, first: tl.tensor, bits: tl.tensor, skip: tl.tensor,
    LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Flip listed bits of memory; several may share a word.

    Args:
        words: address of int32, in and out, the last multiple of four at or before the memory's first byte.
        addresses: int64 (total,), each once: bit ``a % bits`` of element ``a // bits``.
        total: how many there are.
        first: address of the memory's first bit.
        bits: of an element, which takes one byte where they are fewer than eight and not packed.
        skip: bits of ``words`` before the memory.
        LANES: flips of one program.
    """
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = place < total
    address = tl.load(addresses + place, mask=inside, other=0) - first
    bit = tl.where(bits < 8, (address // bits) * 8 + address % bits, address) + skip
    memory = words.to(tl.int64).to(tl.pointer_type(tl.int32), bitcast=True)
    tl.atomic_xor(memory + (bit >> 5), tl.full([LANES], 1, tl.int32) << (bit & 31).to(tl.int32), mask=inside)


@kernel("size")
def count_bits(
    left: tl.tensor, right: tl.tensor, counts: tl.tensor, size: tl.tensor, LANES: tl.constexpr, TWO: tl.constexpr  # noqa: N803
) -> None:  # fmt: skip
    """Count the set bits of ``left``, or those in which it differs from ``right``.

    Args:
        left: uint8 (size,).
        right: uint8 (size,), read only where TWO.
        counts: int64 (programs,), out.
        size: bytes.
        LANES: bytes of one program.
        TWO: whether to compare.
    """
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = place < size
    word = tl.load(left + place, mask=inside, other=0)
    if TWO:
        word = word ^ tl.load(right + place, mask=inside, other=0)
    tl.store(counts + tl.program_id(0), tl.sum(ones(word.to(tl.uint32)).to(tl.int64), 0))
