"""Bit errors and decoding in one pass: codes in, the values that a network computes with out.

The codes stay as they are, so nothing has to be undone: a program reads codes and the errors that meet them, and writes
what the faulty codes stand for. Codes lie one a byte, or packed without gaps (:mod:`holdfast.numerics.packing`); the
errors are those of :mod:`holdfast.faults.chip`, as a map of all bits or as a list of addresses. Arithmetic is that of
:class:`holdfast.numerics.formats.FixedPoint`, in fp64 and unfused: the same values to the bit.
"""

from __future__ import annotations

import triton.language as tl

from holdfast._kernels.blake3_tree import owners
from holdfast._kernels.compiling import kernel


@kernel()
def bits_at(memory: tl.tensor, address: tl.tensor, inside: tl.tensor, BITS: tl.constexpr) -> tl.tensor:  # noqa: N803
    """Return the BITS bits from each bit ``address`` (int64) of uint8 ``memory`` on, int32."""
    byte, skip = address >> 3, (address & 7).to(tl.int32)
    word = tl.load(memory + byte, mask=inside, other=0).to(tl.int32)
    if 8 % BITS != 0:  # a code may cross a byte; the one after it is there, or the code would not reach into it
        word = word | (tl.load(memory + byte + 1, mask=inside & (skip + BITS > 8), other=0).to(tl.int32) << 8)
    return (word >> skip) & ((1 << BITS) - 1)


@kernel()
def held(
    codes: tl.tensor, element: tl.tensor, inside: tl.tensor, BITS: tl.constexpr, PACKED: tl.constexpr  # noqa: N803
) -> tl.tensor:  # fmt: skip
    """Return the codes number ``element`` (int64), int32, without what stands above their BITS bits."""
    if PACKED:
        return bits_at(codes, element * BITS, inside, BITS)
    return tl.load(codes + element, mask=inside, other=0).to(tl.int32) & ((1 << BITS) - 1)


@kernel()
def decoded(
    code: tl.tensor, scale: tl.tensor, low: tl.tensor, limits: tl.tensor,
    BITS: tl.constexpr, SIGNED: tl.constexpr, OFFSET: tl.constexpr, SATURATE: tl.constexpr,  # noqa: N803
) -> tl.tensor:  # fmt: skip
    """Return what codes (int32, of BITS bits) stand for, fp32."""
    if SIGNED:
        code = tl.where(code >= (1 << (BITS - 1)), code - (1 << BITS), code)
    steps = (code - OFFSET).to(tl.float64)
    if SATURATE:
        steps = tl.minimum(tl.maximum(steps, tl.load(limits)), tl.load(limits + 1))
    return (steps * scale.to(tl.float64) + low.to(tl.float64)).to(tl.float32)


@kernel()
def decode_parts(
    owner: tl.tensor, starts: tl.tensor, table: tl.tensor, scales: tl.tensor, lows: tl.tensor, limits: tl.tensor,
    codes: tl.tensor, flags: tl.tensor, values: tl.tensor,
    BITS: tl.constexpr, SIGNED: tl.constexpr, OFFSET: tl.constexpr, SATURATE: tl.constexpr,  # noqa: N803
    PACKED: tl.constexpr, FLIPPED: tl.constexpr, LANES: tl.constexpr, FIELDS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Decode every code of some parts, under a map of errors.

    Args:
        owner: the part of each program; int64.
        starts: first program of each part; int64.
        table: int64 (parts, FIELDS), see :class:`~holdfast._kernels.parts.Parts`.
        scales: fp32 (parts,).
        lows: fp32 (parts,).
        limits: fp64, of :class:`~holdfast._kernels.codes.Law`.
        codes: uint8 or int8, one a byte; or uint8, packed.
        flags: uint8, bit ``a % 8`` of byte ``a // 8`` being what flips bit ``a``; read only where FLIPPED.
        values: fp32, out.
        BITS: of a code.
        SIGNED: whether they are in two's complement.
        OFFSET: the code of step zero.
        SATURATE: whether values stay in their range.
        PACKED: whether codes lie without gaps.
        FLIPPED: whether there are errors.
        LANES: elements of one program.
        FIELDS: columns of ``table``.
    """
    program = tl.program_id(0).to(tl.int64)
    part = tl.load(owner + program)
    row = table + part * FIELDS
    place = (program - tl.load(starts + part)) * LANES + tl.arange(0, LANES)
    inside = place < tl.load(row + 2)
    element = tl.load(row) + place
    code = held(codes, element, inside, BITS, PACKED)
    if FLIPPED:
        code = code ^ bits_at(flags, element * BITS, inside, BITS)
    value = decoded(code, tl.load(scales + part), tl.load(lows + part), limits, BITS, SIGNED, OFFSET, SATURATE)
    tl.store(values + tl.load(row + 1) + place, value, mask=inside)


@kernel("parts", "steps", "total")
def decode_listed(
    firsts: tl.tensor, table: tl.tensor, scales: tl.tensor, lows: tl.tensor, limits: tl.tensor,
    codes: tl.tensor, addresses: tl.tensor, values: tl.tensor, parts: tl.tensor, steps: tl.tensor, total: tl.tensor,
    BITS: tl.constexpr, SIGNED: tl.constexpr, OFFSET: tl.constexpr, SATURATE: tl.constexpr,  # noqa: N803
    PACKED: tl.constexpr, LANES: tl.constexpr, FIELDS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Decode only the codes that listed errors hit; the other values are left alone.

    Args:
        firsts: first code of each part; int64.
        table: int64 (parts, FIELDS).
        scales: fp32 (parts,).
        lows: fp32 (parts,).
        limits: fp64, of :class:`~holdfast._kernels.codes.Law`.
        codes: uint8 or int8, one a byte; or uint8, packed.
        addresses: int64 (total,), ascending, each once: bit ``a % BITS`` of code ``a // BITS``.
        values: fp32, in and out.
        parts: how many there are.
        steps: bits of ``parts``.
        total: how many addresses there are.
        BITS: of a code.
        SIGNED: whether they are in two's complement.
        OFFSET: the code of step zero.
        SATURATE: whether values stay in their range.
        PACKED: whether codes lie without gaps.
        LANES: addresses of one program.
        FIELDS: columns of ``table``.
    """
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = place < total
    element = tl.load(addresses + place, mask=inside, other=0) // BITS
    before = tl.load(addresses + place - 1, mask=inside & (place > 0), other=-BITS) // BITS
    inside = inside & ((place == 0) | (before != element))  # the first bit of a code acts for the others
    mask = tl.zeros([LANES], tl.int32)
    for ahead in tl.static_range(BITS):
        address = tl.load(addresses + place + ahead, mask=inside & (place + ahead < total), other=-BITS)
        mask = mask | tl.where(address // BITS == element, 1 << (address % BITS).to(tl.int32), 0)
    part = owners(firsts, element, parts, steps)
    code = held(codes, element, inside, BITS, PACKED) ^ mask
    value = decoded(code, tl.load(scales + part), tl.load(lows + part), limits, BITS, SIGNED, OFFSET, SATURATE)
    where = tl.load(table + part * FIELDS + 1) + element - tl.load(table + part * FIELDS)
    tl.store(values + where, value, mask=inside)


@kernel("inner", "total")
def flip_touched(
    codes: tl.tensor, values: tl.tensor, index: tl.tensor, masks: tl.tensor,
    scales: tl.tensor, lows: tl.tensor, limits: tl.tensor, inner: tl.tensor, total: tl.tensor,
    BITS: tl.constexpr, SIGNED: tl.constexpr, OFFSET: tl.constexpr, SATURATE: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Flip bits of listed codes of one tensor, for good, and decode just these.

    Args:
        codes: uint8 or int8, one a byte, in and out.
        values: fp32, in and out.
        index: int64 (total,), each once.
        masks: int64 (total,); bits above the width flip nothing.
        scales: fp32.
        lows: fp32.
        limits: fp64, of :class:`~holdfast._kernels.codes.Law`.
        inner: neighbouring elements that share a scale.
        total: how many codes there are to flip.
        BITS: of a code.
        SIGNED: whether they are in two's complement.
        OFFSET: the code of step zero.
        SATURATE: whether values stay in their range.
        LANES: codes of one program.
    """
    place = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = place < total
    element = tl.load(index + place, mask=inside, other=0)
    mask = (tl.load(masks + place, mask=inside, other=0) & ((1 << BITS) - 1)).to(tl.int32)
    code = held(codes, element, inside, BITS, False) ^ mask
    stored = tl.where(code >= (1 << (BITS - 1)), code - (1 << BITS), code) if SIGNED else code
    tl.store(codes + element, stored.to(codes.dtype.element_ty), mask=inside)
    part = element // inner
    scale, low = tl.load(scales + part, mask=inside, other=1), tl.load(lows + part, mask=inside, other=0)
    tl.store(values + element, decoded(code, scale, low, limits, BITS, SIGNED, OFFSET, SATURATE), mask=inside)
