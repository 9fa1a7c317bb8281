"""The row checksum of a linear layer: one sum per row of its output against one precomputed for the weights.

Two looks. The first runs on every pass and must be cheap: it computes the residuals in the precision of the product and
holds the largest against one number, half the smallest threshold that clean rows had (``quick``), or, where none is
known, against part of each row's variance, which is less than all of it. Nearly every pass ends there. The second
look, in fp64 and with the whole variance, is at the rows that did not pass. A row whose own threshold is below
``quick``, because it is far smaller than any clean row was, is held against ``quick`` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast._kernels.device import attempt, obstacle
from holdfast.hardening.guards.checksum_rounding import Rounding, deviations
from holdfast.hardening.guards.checksum_sums import Sums

if TYPE_CHECKING:
    from holdfast._kernels.checksums import RowLaw

_PART = 16  # the first look squares one input in 16, or, where outputs are rounded again, one output in eight
_OUTPUT_PART = 8


class LinearCheck:
    """Checks y = x W' + b for one W and b, as they were when ``sums`` were taken.

    Args:
        sums: of the weights as they are multiplied.
        weight: shape (N, K), the summed one.
        bias: shape (N,), or None.
        false_alarms: chance per row that rounding alone raises an alarm.
        quick: residual below which no row gets a second look; 0 where no clean rows were seen.
        rounding: of the product; None for that of a product stored as the weights are.

    Attributes:
        shape: (N, K).
        gram: squared lengths of the columns of the weights, fp64, shape (K,).
        bias_length: squared length of the bias.
        limit: squared number of standard deviations that rounding may take.
    """

    def __init__(
        self,
        sums: Sums,
        weight: Tensor,
        bias: Tensor | None,
        false_alarms: float,
        quick: float = 0.0,
        rounding: Rounding | None = None,
    ) -> None:
        self.sums = sums
        self.quick = quick
        self._outputs, self._chain = self.shape = weight.shape
        self._rounding = rounding = Rounding.of(weight) if rounding is None else rounding
        self._limit = self.limit = deviations(false_alarms) ** 2
        self.bias_length = 0.0 if bias is None else float(bias.detach().double().square().sum())
        self._floor = self._limit * rounding.floor(self._outputs, self.bias_length)
        self._law: RowLaw | None = None
        self._gram = self.gram = weight.detach().double().square().sum(0)  # g of the rounding model
        self._kept = (sums.signs.to(rounding.work), sums.plain[0, :-1].to(rounding.work))
        self._bias = sums.bias
        self._shift = torch.tensor([-self._bias], dtype=rounding.work, device=weight.device)
        self._none = torch.empty(0, dtype=torch.int64, device=weight.device)
        own = self._gram + sums.plain[0, :-1].square()
        if rounding.work == torch.float64:
            self._gram = own  # the second look is no more precise than the first, so its own rounding counts
        self._part = min(self._chain, max(16, self._chain // _PART))
        self._power = (self._limit * rounding.of_terms(self._chain) * own[: self._part]).to(rounding.work)
        self._output_part = max(1, self._outputs // _OUTPUT_PART)

    def wrong(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the numbers of the rows of ``output`` (..., N) that its ``inputs`` (..., K) do not explain."""
        x, y = inputs.detach().reshape(-1, self._chain), output.detach().reshape(-1, self._outputs)
        if obstacle(x) is None and obstacle(y) is None and (found := self._wrong_there(x, y)) is not None:
            return found
        residual = self._residual(x, y)
        if self.quick and float(torch.linalg.vector_norm(residual, torch.inf)) < self.quick:  # NaN is below nothing
            return self._none
        passed = self._passed(residual, x, y)
        if passed.all():
            return self._none
        return self._confirmed(x, y, (~passed).nonzero().flatten())

    def _passed(self, residual: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Say of each row by itself, whatever stands beside it, whether it needs no second look."""
        passed = residual.square() < self._bound(x, y)  # infinity is not below infinity, and NaN is below nothing
        return passed | (residual.abs() < self.quick) if self.quick else passed

    def flags(self, inputs: Tensor, output: Tensor) -> Tensor | None:
        """Return 1 for every wrong row, int8, shape (rows,), without waiting; None where no kernel can look."""
        x, y = inputs.detach().reshape(-1, self._chain), output.detach().reshape(-1, self._outputs)
        if obstacle(x) is not None or obstacle(y) is not None:
            return None
        from holdfast._kernels.checksums import row_flags

        return attempt(lambda: row_flags(x, y, self._law_there()), y.device)

    def _wrong_there(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The second look at all rows, on a CUDA device: there it is one pass and costs no more than the first."""
        from holdfast._kernels.checksums import wrong_rows

        return attempt(lambda: wrong_rows(x, y, self._law_there()), y.device)

    def _law_there(self) -> RowLaw:
        """Return the law as the kernel reads it, made once: a copy to the device would wait for all that is there."""
        from holdfast._kernels.checksums import RowLaw

        if self._law is None:
            terms, outputs = self._rounding.of_terms(self._chain), self._of_outputs()
            numbers = [self._bias, terms, outputs, self._limit, self._floor, self.quick]
            signs = self.sums.signs
            self._law = RowLaw(
                signs=signs, column=self.sums.plain[0, :-1], gram=self._gram,
                numbers=torch.tensor(numbers, dtype=torch.float64).to(signs.device),
            )  # fmt: skip
        return self._law

    def _of_outputs(self) -> float:
        return self._rounding.of_outputs(self._chain, self._outputs)

    def _residual(self, x: Tensor, y: Tensor) -> Tensor:
        signs, column = self._kept
        work = self._rounding.work
        return torch.addmv(self._shift, y.to(work), signs).addmv_(x.to(work), column, alpha=-1)

    def _bound(self, x: Tensor, y: Tensor) -> Tensor:
        """Return less than what the squared residuals may be."""
        if not self._rounding.stored:
            return torch.mv(x[:, : self._part].square(), self._power).add_(self._floor)
        part = y[:, : self._output_part].to(self._rounding.work).square().sum(1)
        return part.mul_(self._limit * self._rounding.stored**2 / 3).add_(self._floor)

    def _confirmed(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Return those of ``rows`` whose residual in fp64 is beyond the whole variance."""
        wide, seen = x[rows].double(), y[rows].double()
        residual = seen @ self.sums.signs - wide @ self.sums.plain[0, :-1] - self._bias
        return rows[~(residual.square() < self._variance(wide, seen))]

    def _variance(self, wide: Tensor, seen: Tensor) -> Tensor:
        terms = self._rounding.of_terms(self._chain) * (wide.square() @ self._gram)
        outputs = self._of_outputs() * seen.square().sum(1)
        return self._limit * (terms + outputs) + self._floor

    def thresholds(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return how far each row's checksum may be off, fp64, shape (rows,)."""
        wide, seen = inputs.detach().reshape(-1, self._chain), output.detach().reshape(-1, self._outputs)
        return self._variance(wide.double(), seen.double()).sqrt()


def wrong_columns(inputs: Tensor, output: Tensor, weight: Tensor, bias: Tensor | None, false_alarms: float) -> Tensor:
    """Return the outputs (int64, shape (n,)) whose sum over all rows does not fit the inputs: the column checksum.

    The weights are taken as they are stored now. A row that is wrong while no column is therefore says that weights
    changed, and a row and a column that are wrong together say which element was computed wrong. Where outputs are
    rounded again, those of one column may all be rounded the same way, as products far smaller than their bias are.
    """
    x, y = inputs.detach().reshape(-1, weight.shape[1]), output.detach().reshape(-1, len(weight))
    (x_sum, x_power), (y_sum, y_power) = _column_sums(x), _column_sums(y)
    stored = weight.detach().double()
    rounding, limit = Rounding.of(output), deviations(false_alarms) ** 2
    residual = y_sum - F.linear(x_sum, stored)
    if bias is not None:
        residual -= len(x) * bias.detach().double()
    terms = stored.square() @ x_power * rounding.of_terms(weight.shape[1])
    variance = terms + rounding.of_outputs(weight.shape[1], len(x)) * y_power + rounding.floor(len(x))
    alike = max(0.0, len(x) - limit / 3) * rounding.stored**2 * y_power  # (sum of |y|)**2 is at most rows * y_power
    return (~(residual.square() < limit * variance + alike)).nonzero().flatten()


def _column_sums(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of the columns and of their squares, fp64, shape (columns,)."""
    if obstacle(matrix) is None:
        from holdfast._kernels.checksums import column_sums

        if (found := attempt(lambda: column_sums(matrix), matrix.device)) is not None:
            return found
    wide = matrix.double()
    return wide.sum(0), wide.square().sum(0)
