"""The sums that check a product, in fp64 and in one pass over its operands, without an fp64 copy of either.

Huang and Abraham, IEEE Transactions on Computers C-33 (1984), on what a linear layer read and wrote. What the sums are
held against is said in :mod:`holdfast.hardening.guards.checksum_rounding`; the constants come from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from holdfast._kernels.compiling import kernel

_CHECKED, _COLUMNS = 8, 256  # rows of one program, and what is read of each at once
_ROWS, _PART = 32, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLaw:
    """What a row's sums are held against: it is right where residual**2 < limit * (terms + outputs) + floor.

    It is right as well where |residual| < ``quick``, whatever the rows beside it are.

    Attributes:
        signs: of the outputs, fp64, shape (N,).
        column: what the inputs' weighted sum is made with, fp64, shape (K,).
        gram: what their squares are, fp64, shape (K,).
        numbers: fp64, shape (6,): signed sum of the bias, factor of the squares of the inputs, and of the outputs,
            square of the deviations allowed, squared residual that is always allowed, and ``quick``.
    """

    signs: Tensor
    column: Tensor
    gram: Tensor
    numbers: Tensor


@kernel("rows")  # the others are compiled for on whether 16 divides them: else values would be read one by one
def check_rows(
    x: tl.tensor, y: tl.tensor, signs: tl.tensor, column: tl.tensor, gram: tl.tensor, law: tl.tensor,
    wrong: tl.tensor, rows: tl.tensor, inputs: tl.tensor, outputs: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Check a few rows per program, which meet what is the same for all rows together.

    Args:
        x: any float (rows, inputs).
        y: any float (rows, outputs).
        signs: fp64 (outputs,).
        column: fp64 (inputs,).
        gram: fp64 (inputs,).
        law: fp64 (6,): bias, terms, outputs, limit, floor, quick.
        wrong: int8 (rows,), out.
        rows: how many there are.
        inputs: K.
        outputs: N.
        ROWS: of one program.
        COLUMNS: values of a row read at once.
    """
    row, lane = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    real = row < rows
    residual, squares = tl.zeros([ROWS, COLUMNS], tl.float64), tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in tl.range(0, outputs, COLUMNS, num_stages=3):  # reads of the next rounds are on their way
        value, inside = _values(y, row, real, outputs, first + lane)
        residual += value * tl.load(signs + first + lane, mask=inside, other=0)[None, :]
        squares += value * value
    power = tl.zeros([ROWS, COLUMNS], tl.float64)
    for first in tl.range(0, inputs, COLUMNS, num_stages=3):
        value, inside = _values(x, row, real, inputs, first + lane)
        residual -= value * tl.load(column + first + lane, mask=inside, other=0)[None, :]
        power += value * value * tl.load(gram + first + lane, mask=inside, other=0)[None, :]
    off = tl.sum(residual, 1) - tl.load(law)
    allowed = tl.load(law + 1) * tl.sum(power, 1) + tl.load(law + 2) * tl.sum(squares, 1)
    fine = off * off < tl.load(law + 3) * allowed + tl.load(law + 4)  # NaN is below nothing, nor infinity below itself
    fine = fine | (tl.abs(off) < tl.load(law + 5))
    tl.store(wrong + row, tl.where(fine, 0, 1).to(tl.int8), mask=real)


@kernel()
def _values(
    matrix: tl.tensor, row: tl.tensor, real: tl.tensor, columns: tl.tensor, place: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Return the values of rows at places, fp64, zero beyond either, and which places there are."""
    inside = place < columns
    there = matrix + row[:, None] * columns + place[None, :]
    return tl.load(there, mask=real[:, None] & inside[None, :], other=0).to(tl.float64), inside


@kernel("rows", "columns", "part")
def sum_columns(
    matrix: tl.tensor, sums: tl.tensor, squares: tl.tensor, rows: tl.tensor, columns: tl.tensor, part: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Sum a block of columns over some of the rows.

    Args:
        matrix: any float (rows, columns).
        sums: fp64 (parts, columns), out.
        squares: fp64 (parts, columns), out.
        rows: how many there are.
        columns: how many there are.
        part: rows of one program.
        ROWS: rows read at once.
        COLUMNS: columns of one program.
    """
    place = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = place < columns
    first = tl.program_id(0).to(tl.int64) * part
    total, power = tl.zeros([ROWS, COLUMNS], tl.float64), tl.zeros([ROWS, COLUMNS], tl.float64)
    for offset in range(0, part, ROWS):
        row = first + offset + tl.arange(0, ROWS)
        real = (row < rows)[:, None] & inside[None, :]
        value = tl.load(matrix + row[:, None] * columns + place[None, :], mask=real, other=0).to(tl.float64)
        total += value
        power += value * value
    where = tl.program_id(0).to(tl.int64) * columns + place
    tl.store(sums + where, tl.sum(total, 0), mask=inside)
    tl.store(squares + where, tl.sum(power, 0), mask=inside)


def row_flags(x: Tensor, y: Tensor, law: RowLaw) -> Tensor:
    """Return 1 for every row of ``y`` that ``x`` does not explain, int8, shape (rows,), without waiting for it.

    Args:
        x: inputs, any float dtype, contiguous, shape (rows, K).
        y: outputs, likewise, shape (rows, N).
        law: what the sums are held against.
    """
    wrong = torch.empty(len(y), dtype=torch.int8, device=y.device)
    with torch.cuda.device_of(y):
        if len(y):
            check_rows[(-(-len(y) // _CHECKED),)](
                x, y, law.signs, law.column, law.gram, law.numbers, wrong, len(y), x.shape[1], y.shape[1],
                ROWS=_CHECKED, COLUMNS=_COLUMNS, enable_fp_fusion=True,
            )  # fmt: skip
    return wrong


def wrong_rows(x: Tensor, y: Tensor, law: RowLaw) -> Tensor:
    """Return the numbers of the rows of ``y`` that ``x`` does not explain, int64, on their device.

    The arguments are those of :func:`row_flags`.
    """
    wrong = row_flags(x, y, law)
    if not bool(wrong.any()):
        return torch.empty(0, dtype=torch.int64, device=y.device)
    return wrong.nonzero().flatten()


def column_sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of the columns and of their squares, fp64, shape (columns,), each in one order of summation.

    Args:
        matrix: any float dtype, contiguous, shape (rows, columns).
    """
    rows, columns = matrix.shape
    parts = max(1, -(-rows // _PART))
    sums, squares = torch.zeros(2, parts, columns, dtype=torch.float64, device=matrix.device)
    with torch.cuda.device_of(matrix):
        if matrix.numel():
            sum_columns[(parts, -(-columns // _ROWS))](  # the second number of programs may not exceed 65535
                matrix, sums, squares, rows, columns, _PART, ROWS=_ROWS, COLUMNS=_ROWS, enable_fp_fusion=False
            )
    return sums.sum(0), squares.sum(0)
