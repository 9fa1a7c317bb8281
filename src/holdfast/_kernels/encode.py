"""Quantisation of several tensors in two passes: their extremes, then codes and decoded values together.

The ranges between the two are derived by :class:`holdfast.numerics.formats.FixedPoint` itself, from the extremes; the
steps are its own as well, in fp64 and unfused: the same codes and values to the bit.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from holdfast._kernels.codes import Codes, Law
from holdfast._kernels.compiling import kernel
from holdfast._kernels.decode import decoded
from holdfast._kernels.parts import FIELDS, Parts

_MAGIC = tl.constexpr(6755399441055744.0)  # 1.5 * 2**52: a sum with it has no room for a fraction, and rounds to even


@kernel()
def _source(
    row: tl.tensor, program: tl.tensor, start: tl.tensor, LANES: tl.constexpr  # noqa: N803
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Return places in a part, which of them it has, and the numbers there."""
    place = (program - start) * LANES + tl.arange(0, LANES)
    inside = place < tl.load(row + 2)
    base = tl.load(row + 3).to(tl.pointer_type(tl.float32), bitcast=True)
    return place, inside, tl.load(base + place, mask=inside, other=0)


@kernel("programs")
def find_extremes(
    owner: tl.tensor, starts: tl.tensor, table: tl.tensor, extremes: tl.tensor, programs: tl.tensor,
    LANES: tl.constexpr, FIELDS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Find the least and the greatest number that each program meets; both NaN where one is not finite.

    Args:
        owner: the part of each program; int64.
        starts: first program of each part; int64.
        table: int64 (parts, FIELDS), see :class:`~holdfast._kernels.parts.Parts`; the sources are fp32.
        extremes: fp32 (2, programs), out.
        programs: how many there are.
        LANES: elements of one program.
        FIELDS: columns of ``table``.
    """
    program = tl.program_id(0).to(tl.int64)
    part = tl.load(owner + program)
    _, inside, x = _source(table + part * FIELDS, program, tl.load(starts + part), LANES)
    strange = tl.max(((tl.abs(x) < float("inf")) == 0).to(tl.int32), 0) != 0
    least = tl.min(tl.where(inside, x, float("inf")), 0)
    most = tl.max(tl.where(inside, x, float("-inf")), 0)
    tl.store(extremes + program, tl.where(strange, float("nan"), least))
    tl.store(extremes + programs + program, tl.where(strange, float("nan"), most))


@kernel()
def _rounded(
    steps: tl.tensor, wide: tl.tensor, scale: tl.tensor, low: tl.tensor, limits: tl.tensor,
    SIGNED: tl.constexpr, SATURATE: tl.constexpr, TRUNCATE: tl.constexpr,  # noqa: N803
) -> tl.tensor:  # fmt: skip
    """Return whole steps, fp64."""
    nearest = (steps + _MAGIC) - _MAGIC
    if TRUNCATE:
        exact = tl.abs(wide - (nearest * scale + low)) <= tl.abs(wide) * tl.load(limits + 6)
        below = tl.where(nearest > steps, nearest - 1, nearest)
        if SIGNED:  # towards zero
            below = tl.where((steps < 0) & (below < steps), below + 1, below)
        return tl.where(exact, nearest, below)
    if SATURATE:
        nearest = tl.minimum(tl.maximum(nearest, tl.load(limits + 2)), tl.load(limits + 3))
    return nearest


@kernel()
def encode_parts(
    owner: tl.tensor, starts: tl.tensor, table: tl.tensor, scales: tl.tensor, lows: tl.tensor, limits: tl.tensor,
    codes: tl.tensor, values: tl.tensor,
    BITS: tl.constexpr, SIGNED: tl.constexpr, OFFSET: tl.constexpr, SATURATE: tl.constexpr,  # noqa: N803
    TRUNCATE: tl.constexpr, LANES: tl.constexpr, FIELDS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Encode the sources of some parts, and decode them again.

    Args:
        owner: the part of each program; int64.
        starts: first program of each part; int64.
        table: int64 (parts, FIELDS), see :class:`~holdfast._kernels.parts.Parts`; the sources are fp32.
        scales: fp32 (parts,).
        lows: fp32 (parts,).
        limits: fp64, of :class:`~holdfast._kernels.codes.Law`.
        codes: uint8 or int8, one a byte, out.
        values: fp32, out.
        BITS: of a code.
        SIGNED: whether they are in two's complement.
        OFFSET: the code of step zero.
        SATURATE: whether values stay in their range.
        TRUNCATE: whether steps are truncated instead of rounded to even.
        LANES: elements of one program.
        FIELDS: columns of ``table``.
    """
    program = tl.program_id(0).to(tl.int64)
    part = tl.load(owner + program)
    row = table + part * FIELDS
    place, inside, x = _source(row, program, tl.load(starts + part), LANES)
    scale, low = tl.load(scales + part), tl.load(lows + part)
    wide = tl.minimum(tl.maximum(x.to(tl.float64), tl.load(limits + 4)), tl.load(limits + 5))
    many = (wide - low.to(tl.float64)) / scale.to(tl.float64)
    many = tl.minimum(tl.maximum(many, tl.load(limits)), tl.load(limits + 1))
    whole = _rounded(many, wide, scale.to(tl.float64), low.to(tl.float64), limits, SIGNED, SATURATE, TRUNCATE)
    code = whole.to(tl.int32) + OFFSET
    tl.store(codes + tl.load(row) + place, code.to(codes.dtype.element_ty), mask=inside)
    value = decoded(code & ((1 << BITS) - 1), scale, low, limits, BITS, SIGNED, OFFSET, SATURATE)
    tl.store(values + tl.load(row + 1) + place, value, mask=inside)


def extremes(parts: Parts) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest number of each part, fp32 (parts,); NaN where one is not finite."""
    device = parts.table.device
    found = torch.empty(2, parts.programs, dtype=torch.float32, device=device)
    with torch.cuda.device_of(parts.table):
        if parts.programs:
            find_extremes[(parts.programs,)](
                parts.owner, parts.starts, parts.table, found, parts.programs,
                LANES=parts.lanes, FIELDS=FIELDS,
            )  # fmt: skip
    least, most = torch.full((2, parts.count), torch.inf, dtype=torch.float32, device=device)
    least.scatter_reduce_(0, parts.owner, found[0], "amin", include_self=False)
    most.scatter_reduce_(0, parts.owner, found[1], "amax", include_self=False)
    return least, most


def encoded(parts: Parts, law: Law, scales: Tensor, lows: Tensor) -> tuple[Codes, Tensor]:
    """Return the codes of the sources of ``parts``, one a byte, and the values they stand for.

    Args:
        parts: with sources, fp32.
        law: what a code means.
        scales: fp32 (parts,).
        lows: fp32 (parts,).
    """
    device = parts.table.device
    memory = torch.empty(parts.codes, dtype=torch.int8 if law.signed else torch.uint8, device=device)
    values = torch.zeros(parts.values, dtype=torch.float32, device=device)
    with torch.cuda.device_of(parts.table):
        if parts.programs:
            encode_parts[(parts.programs,)](
                parts.owner, parts.starts, parts.table, scales, lows, law.limits, memory, values,
                BITS=law.bits, SIGNED=law.signed, OFFSET=law.offset, SATURATE=law.saturate, TRUNCATE=law.truncate,
                LANES=parts.lanes, FIELDS=FIELDS, enable_fp_fusion=False,
            )  # fmt: skip
    return Codes(parts=parts, law=law, memory=memory, scales=scales, lows=lows), values
