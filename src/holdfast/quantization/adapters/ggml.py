"""Block layouts of GGUF: each type is a table of where the bits of a block's numbers lie.

One-level blocks of 32 elements (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0) and the k-quants, superblocks of 256 (Q2_K to Q6_K); the
layouts are those of ggml's quantisation structures. Low bits of an element stand in ``qs``, high bits in ``qh``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from holdfast.errors import UnsupportedFormat
from holdfast.numerics.formats import Format
from holdfast.numerics.formats.affine import Affine
from holdfast.numerics.formats.superblock import Superblock
from holdfast.numerics.granularity import rows_and_columns
from holdfast.quantization.adapters.field import Field, Table, sequence
from holdfast.quantization.adapters.gguf_file import TYPES
from holdfast.quantization.adapters.layout import CODES, ELEMENTS, Extent, Layout, Part, floating


def _bits(byte: int, count: int, *, low: int = 0) -> tuple[int, ...]:
    return tuple(8 * byte + low + bit for bit in range(count))


def _striped(first: int, count: int, *, bytes_per_run: int, elements: int) -> Table:
    """Return ``count`` bits for each element: runs of bytes hold first everybody's lowest bits, then the next.

    Element e of a run of ``bytes_per_run * 8 // count`` elements lies in byte ``e % bytes_per_run``.
    """
    run = bytes_per_run * 8 // count
    return tuple(
        _bits(first + element // run * bytes_per_run + element % run % bytes_per_run, count,
              low=element % run // bytes_per_run * count)
        for element in range(elements)
    )  # fmt: skip


def _joined(low: Table, high: Table) -> Table:
    return tuple(one + other for one, other in zip(low, high, strict=True))


def _half(first: int) -> Table:
    return sequence(16, 1, first=8 * first)


# the twelve bytes of Q4_K and Q5_K: eight scales and eight lows of six bits
def _six(first: int, *, low: bool) -> Table:
    near, far = first + 4 * low, first + 8
    early = tuple(_bits(near + group, 6) for group in range(4))
    late = tuple(_bits(far + group, 4, low=4 * low) + _bits(near + group, 2, low=6) for group in range(4))
    return early + late


# the twelve bytes of Q3_K: sixteen scales of six bits
_Q3_SCALES = tuple(_bits(96 + g % 8, 4, low=g // 8 * 4) + _bits(104 + g % 4, 2, low=g // 4 * 2) for g in range(16))
_Q5_HIGH = tuple((32 + lane,) for lane in range(32))  # qh of Q5_1, bit by bit; Q5_0 has it two bytes earlier


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type: what its numbers mean, and a table per part; the keys are those of the format."""

    format: Format
    parts: Mapping[str, tuple[Table, torch.dtype]]


def _one_level(bits: int, low: bool, codes: Table) -> BlockType:
    format = Affine(bits=bits, zero="low" if low else "middle", size=32)
    parts = {CODES: (codes, torch.uint8), "scale": (_half(0), torch.float16)}
    return BlockType(format, parts | ({"low": (_half(2), torch.float16)} if low else {}))


def _two_level(format: Superblock, codes: Table, scale: Table, half: int, lows: tuple[Table, int] | None) -> BlockType:
    small = torch.int8 if format.scales == "signed" else torch.uint8
    parts = {
        CODES: (codes, torch.uint8),
        "super_scale": (_half(half), torch.float16),
        "scale": (scale, small),
    }
    if lows is not None:
        parts |= {"super_low": (_half(lows[1]), torch.float16), "low": (lows[0], torch.uint8)}
    return BlockType(format, parts)


def _k(first: int, count: int, run: int = 32) -> Table:
    return _striped(first, count, bytes_per_run=run, elements=256)


BLOCKS: Mapping[str, BlockType] = {
    "Q4_0": _one_level(4, False, _striped(2, 4, bytes_per_run=16, elements=32)),
    "Q4_1": _one_level(4, True, _striped(4, 4, bytes_per_run=16, elements=32)),
    "Q5_0": _one_level(
        5, False, _joined(_striped(6, 4, bytes_per_run=16, elements=32), tuple((at - 16,) for (at,) in _Q5_HIGH))
    ),
    "Q5_1": _one_level(5, True, _joined(_striped(8, 4, bytes_per_run=16, elements=32), _Q5_HIGH)),
    "Q8_0": BlockType(
        Affine(bits=8, signed=True, zero="none", size=32),
        {CODES: (sequence(8, 32, first=16), torch.int8), "scale": (_half(0), torch.float16)},
    ),
    "Q2_K": _two_level(
        Superblock(bits=2, size=16, scale_bits=4),
        _k(16, 2), tuple(_bits(group, 4) for group in range(16)), 80,
        (tuple(_bits(group, 4, low=4) for group in range(16)), 82),
    ),
    "Q3_K": _two_level(
        Superblock(bits=3, size=16, scales="middle", low=False), _joined(_k(32, 2), _k(0, 1)), _Q3_SCALES, 108, None
    ),
    "Q4_K": _two_level(Superblock(bits=4), _k(16, 4), _six(4, low=False), 0, (_six(4, low=True), 2)),
    "Q5_K": _two_level(
        Superblock(bits=5), _joined(_k(48, 4), _k(16, 1)), _six(4, low=False), 0, (_six(4, low=True), 2)
    ),
    "Q6_K": _two_level(
        Superblock(bits=6, size=16, scale_bits=8, scales="signed", low=False),
        _joined(_k(0, 4, 64), _k(128, 2)), sequence(8, 16, first=8 * 192), 208, None,
    ),
}  # fmt: skip


def ggml(name: str, dtype: str, shape: tuple[int, ...]) -> Layout:
    """Return the layout of a GGUF tensor of type ``dtype``; the last side of ``shape`` holds whole blocks.

    Raises:
        UnsupportedFormat: a type whose codes are not read here, or rows that are not made of whole blocks.
    """
    if dtype not in TYPES:
        raise UnsupportedFormat(f"{dtype} is no type of GGUF", hint=f"known: {', '.join(TYPES)}")
    _, block, size = TYPES[dtype]
    if not shape or shape[-1] % block:
        raise UnsupportedFormat(f"{name} of shape {list(shape)} is not made of blocks of {block}")
    stored = Extent(dtype, shape, math.prod(shape) // block * size)
    if dtype in ("F64", "F32", "F16", "BF16"):
        return floating(name, stored)
    if dtype not in BLOCKS:
        raise UnsupportedFormat(
            f"{name} is {dtype}, whose codes are not read here", hint=f"read here: F32, F16, BF16, {', '.join(BLOCKS)}"
        )
    return _blocked(name, stored, block, size)


def _blocked(name: str, stored: Extent, block: int, size: int) -> Layout:
    kind = BLOCKS[stored.dtype]
    rows, columns = rows_and_columns(stored.shape)
    blocks = columns // block
    parts = {}
    for key, (table, dtype) in kind.parts.items():
        field = Field(
            tensor=name, rows=rows, columns=blocks * len(table), table=table, dtype=dtype,
            block=8 * size, other=8 * size * blocks,
        )  # fmt: skip
        shape = stored.shape if key == CODES else (rows, field.columns)
        parts[key] = Part(field, shape, kind.format.name if key == CODES else _kind_of(field))
    return Layout(name=name, scheme=stored.dtype, format=kind.format, parts=parts, stored={name: stored})


def _kind_of(field: Field) -> str:
    return "fp16" if field.dtype == ELEMENTS["F16"][1] else f"{'int' if field.dtype.is_signed else 'uint'}{field.bits}"
