"""A linear layer whose product is summed while it is in registers, so that checking it reads nothing twice.

Y = X W' + b by tiles, and, of each tile before it is stored: the signed sum of every row and the sum of its squares,
and, where asked for, the sum of every column (Huang and Abraham, IEEE Transactions on Computers C-33, 1984). What a
row's sum should be follows from X and the summed weights; each tile of a row adds its share of that from blocks of X
that it has at hand. Sums are fp32, as the product is. A second, small kernel holds them against each other.

Seen are errors of the product and of W since it was summed. What happens to Y after it was stored is not: for that it
would have to be read again, which is what :mod:`holdfast._kernels.checksums` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from holdfast._kernels.compiling import kernel

BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS = 128, 128, 64
_JUDGED = 128  # rows of one program
_REGISTERS = 128  # of a thread, so that two programs share a multiprocessor; of fp32, one fills its shared memory
SUMS, SQUARES, EXPECTED, POWER = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLaw:
    """What the sums of a row are held against: right where residual**2 < limit * (terms + outputs) + floor.

    Attributes:
        signs: of the outputs, fp32, shape (N,).
        column: signed sum of the weights, fp32, shape (K,).
        gram: what squares of inputs are weighted with, fp32, shape (K,).
        numbers: fp64, shape (5,): signed sum of the bias, factor of the squares of inputs, and of outputs, squared
            deviations allowed, and squared residual that is always allowed.
        precision: of the product of fp32 factors, ``ieee`` or ``tf32``.
    """

    signs: Tensor
    column: Tensor
    gram: Tensor
    numbers: Tensor
    precision: str = "ieee"


@dataclass(frozen=True, slots=True)
class Product:
    """A product and its sums.

    Attributes:
        output: Y, shape (rows, N).
        parts: fp32, shape (4, tiles, rows): by tile of a row, its sum, its squares, and its share of what the sum
            should be and of the squares of the inputs.
        columns: fp32, shape (tiles of rows, N): sums of the columns; empty unless asked for.
    """

    output: Tensor
    parts: Tensor
    columns: Tensor


@kernel("rows")  # the others are compiled for on whether 16 divides them: else values would be loaded one by one
def multiply_and_sum(
    x: tl.tensor, w: tl.tensor, bias: tl.tensor, y: tl.tensor,
    signs: tl.tensor, column: tl.tensor, gram: tl.tensor, parts: tl.tensor, columns: tl.tensor,
    rows: tl.tensor, outputs: tl.tensor, inputs: tl.tensor,
    BIAS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Compute one tile of Y and its sums.

    Args:
        x: fp16, bf16 or fp32 (rows, inputs).
        w: of the same dtype, (outputs, inputs).
        bias: of the same dtype, (outputs,).
        y: of the same dtype, (rows, outputs), out.
        signs: fp32 (outputs,).
        column: fp32 (inputs,).
        gram: fp32 (inputs,).
        parts: fp32 (4, tiles of outputs, rows), out.
        columns: fp32 (tiles of rows, outputs), out.
        rows: of X and Y.
        outputs: N.
        inputs: K.
        BIAS: whether there is one.
        COLUMNS: whether columns are summed.
        PRECISION: of products of fp32.
        ROWS: of a tile.
        OUTPUTS: of a tile.
        INPUTS: read at once.
    """
    band, tile, tiles = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    row, out = band * ROWS + tl.arange(0, ROWS), tile * OUTPUTS + tl.arange(0, OUTPUTS)
    real, here = row < rows, out < outputs
    left, right = x + row.to(tl.int64)[:, None] * inputs, w + out.to(tl.int64)[:, None] * inputs
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    expected, power = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for first in range(0, inputs, INPUTS):
        place = first + tl.arange(0, INPUTS)
        inside = place < inputs
        a = tl.load(left + place[None, :], mask=real[:, None] & inside[None, :], other=0)
        b = tl.load(right + place[None, :], mask=here[:, None] & inside[None, :], other=0)
        total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
        if (first // INPUTS) % tiles == tile:  # every tile of a row adds a share, so that none has more to do
            wide = a.to(tl.float32)
            expected += tl.sum(wide * tl.load(column + place, mask=inside, other=0)[None, :], 1)
            power += tl.sum(wide * wide * tl.load(gram + place, mask=inside, other=0)[None, :], 1)
    if BIAS:
        total += tl.load(bias + out, mask=here, other=0).to(tl.float32)[None, :]
    kept = total.to(y.dtype.element_ty)
    tl.store(y + row.to(tl.int64)[:, None] * outputs + out[None, :], kept, mask=real[:, None] & here[None, :])
    total = tl.where(real[:, None] & here[None, :], total, 0.0)
    step = tiles.to(tl.int64) * rows  # three of them may be more than an int32 counts
    where = parts + tile.to(tl.int64) * rows + row
    tl.store(where, tl.sum(total * tl.load(signs + out, mask=here, other=0)[None, :], 1), mask=real)
    tl.store(where + step, tl.sum(total * total, 1), mask=real)
    tl.store(where + 2 * step, expected, mask=real)
    tl.store(where + 3 * step, power, mask=real)
    if COLUMNS:
        tl.store(columns + band.to(tl.int64) * outputs + out, tl.sum(total, 0), mask=here)


@kernel("rows", "tiles")
def judge_rows(
    parts: tl.tensor, numbers: tl.tensor, wrong: tl.tensor, rows: tl.tensor, tiles: tl.tensor,
    ROWS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Hold the sums of rows against what they should be.

    Args:
        parts: fp32 (4, tiles, rows).
        numbers: fp64 (5,): bias, terms, outputs, limit, floor.
        wrong: int8 (rows,), out.
        rows: how many there are.
        tiles: of a row.
        ROWS: of one program.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    residual, squares, power = (
        tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64),
    )  # fmt: skip
    step, where = tiles.to(tl.int64) * rows, parts + row
    for _ in range(tiles):
        residual += tl.load(where, mask=real, other=0).to(tl.float64)
        squares += tl.load(where + step, mask=real, other=0).to(tl.float64)
        residual -= tl.load(where + 2 * step, mask=real, other=0).to(tl.float64)
        power += tl.load(where + 3 * step, mask=real, other=0).to(tl.float64)
        where += rows
    off = residual - tl.load(numbers)
    allowed = tl.load(numbers + 1) * power + tl.load(numbers + 2) * squares
    fine = off * off < tl.load(numbers + 3) * allowed + tl.load(numbers + 4)  # NaN is below nothing
    tl.store(wrong + row, tl.where(fine, 0, 1).to(tl.int8), mask=real)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, law: FusedLaw, *, columns: bool = False) -> Product:
    """Return X W' + b with its sums.

    Args:
        x: fp16, bf16 or fp32, contiguous, shape (rows, K).
        weight: of the same dtype and device, contiguous, shape (N, K).
        bias: likewise, shape (N,), or None.
        law: of these weights.
        columns: whether to sum columns as well.
    """
    rows, outputs = len(x), len(weight)
    bands, tiles = -(-rows // BLOCK_ROWS), -(-outputs // BLOCK_OUTPUTS)
    y = x.new_empty(rows, outputs)
    parts = torch.empty(4, tiles, rows, dtype=torch.float32, device=x.device)
    sums = torch.empty(bands if columns else 0, outputs, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        if bands * tiles:
            multiply_and_sum[(bands, tiles)](
                x, weight, weight if bias is None else bias, y, law.signs, law.column, law.gram, parts, sums,
                rows, outputs, x.shape[1], BIAS=bias is not None, COLUMNS=columns, PRECISION=law.precision,
                ROWS=BLOCK_ROWS, OUTPUTS=BLOCK_OUTPUTS, INPUTS=BLOCK_INPUTS, num_warps=8, num_stages=3,
                maxnreg=_REGISTERS if x.element_size() == 2 else None,
            )  # fmt: skip
    return Product(y, parts, sums)


def wrong_flags(found: Product, law: FusedLaw) -> Tensor:
    """Return 1 for every row of a product that its inputs do not explain, int8 (rows,), without waiting for it."""
    _, tiles, rows = found.parts.shape
    wrong = torch.empty(rows, dtype=torch.int8, device=found.parts.device)
    with torch.cuda.device_of(found.parts):
        if rows:
            judge_rows[(-(-rows // _JUDGED),)](found.parts, law.numbers, wrong, rows, tiles, ROWS=_JUDGED)
    return wrong
