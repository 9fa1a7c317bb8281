"""The row checksum of a linear layer: one sum per row of its output against one precomputed for the weights.

Two looks. The first runs on every pass and must be cheap: it computes the residuals in the precision of the product and
takes for their variance only what the first part of each row contributes, which is less than all of it. Nearly every
row passes even so. The second look, in fp64 and with the whole variance, is at the rows that did not.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.hardening.guards.checksum_rounding import Rounding, deviations
from holdfast.hardening.guards.checksum_sums import Sums, weight_and_bias

_PART = 32  # the first look squares one input in 32, or, where outputs are rounded again, one output in eight
_OUTPUT_PART = 8
_LONG = 1536  # elements of a 16-bit row from which on converting it costs more than a product in 16 bits


class Check(Protocol):
    """Compares the output of one kind of operation with its checksums."""

    def wrong(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the numbers of the output's rows (int64, shape (n,)) that rounding does not explain."""
        ...


class LinearCheck:
    """Checks y = x W' + b for one W and b, as they were when ``sums`` were taken.

    Args:
        sums: of the weights.
        weight: shape (N, K), the summed one.
        bias: shape (N,), or None.
        false_alarms: chance per row that rounding alone raises an alarm.
    """

    def __init__(self, sums: Sums, weight: Tensor, bias: Tensor | None, false_alarms: float) -> None:
        self.sums = sums
        self._outputs, self._chain = weight.shape
        self._rounding = rounding = Rounding.of(weight)
        self._limit = deviations(false_alarms) ** 2
        bias_length = 0.0 if bias is None else float(bias.detach().double().square().sum())
        self._floor = self._limit * rounding.floor(self._outputs, bias_length)
        self._gram = weight.detach().double().square().sum(0)  # g of the rounding model
        self._kept = (sums.signs.to(rounding.work), sums.plain[0, :-1].to(rounding.work))
        self._bias = sums.bias
        long = max(weight.shape) >= _LONG
        self._narrow = _narrow(sums, weight.dtype) if rounding.stored and long else None
        own = self._gram + sums.plain[0, :-1].square()
        if rounding.work == torch.float64:
            self._gram = own  # the second look is no more precise than the first, so its own rounding counts
        self._part = min(self._chain, max(16, self._chain // _PART))
        self._power = (self._limit * rounding.of_terms(self._chain) * own[: self._part]).to(rounding.work)
        self._output_part = max(1, self._outputs // _OUTPUT_PART)

    def wrong(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the numbers of the rows of ``output`` (..., N) that its ``inputs`` (..., K) do not explain."""
        x, y = inputs.detach().reshape(-1, self._chain), output.detach().reshape(-1, self._outputs)
        residual = self._residual(x, y) if self._narrow is None else self._narrow_residual(x, y, *self._narrow)
        passed = residual.square_() < self._bound(x, y)  # infinity is not below infinity, and NaN is below nothing
        if passed.all():
            return torch.empty(0, dtype=torch.int64, device=y.device)
        return self._confirmed(x, y, (~passed).nonzero().flatten())

    def _residual(self, x: Tensor, y: Tensor) -> Tensor:
        signs, column = self._kept
        work = self._rounding.work
        return torch.mv(y.to(work), signs).addmv_(x.to(work), column, alpha=-1).sub_(self._bias)

    def _narrow_residual(self, x: Tensor, y: Tensor, signs: Tensor, columns: Tensor) -> Tensor:
        """Return the residuals of 16-bit rows: the shorter side in fp32, then the longer one as it is stored.

        A product rounds its result to 16 bits. Where the other side has been subtracted inside it, that result is the
        small residual, and rounding that loses nothing; converting the longer side would cost half as much again.
        """
        if self._outputs >= self._chain:
            expected = torch.mv(x.to(self._rounding.work), self._kept[1]).add_(self._bias)
            high = expected.to(y.dtype)
            difference = torch.addmm(high[None], signs, y.t(), beta=-1)
            return difference[0].to(expected.dtype) + (high.to(expected.dtype) - expected)
        seen = torch.mv(y.to(self._rounding.work), self._kept[0]).sub_(self._bias)
        high = seen.to(y.dtype)
        both = torch.addmm(torch.stack([high, torch.zeros_like(high)]), columns, x.t(), alpha=-1)
        return both.to(seen.dtype).sum(0) + (seen - high.to(seen.dtype))

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
        outputs = self._rounding.of_outputs(self._chain, self._outputs) * seen.square().sum(1)
        return self._limit * (terms + outputs) + self._floor

    def thresholds(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return how far each row's checksum may be off, fp64, shape (rows,)."""
        wide, seen = inputs.detach().reshape(-1, self._chain), output.detach().reshape(-1, self._outputs)
        return self._variance(wide.double(), seen.double()).sqrt()


def _narrow(sums: Sums, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the signs, shape (1, N), and the sums as a large and a small part, shape (2, K), in ``dtype``."""
    large = sums.plain[0, :-1].to(dtype)
    return sums.signs.to(dtype)[None], torch.stack([large, (sums.plain[0, :-1] - large.double()).to(dtype)])


def wrong_columns(inputs: Tensor, output: Tensor, weight: Tensor, bias: Tensor | None, false_alarms: float) -> Tensor:
    """Return the outputs (int64, shape (n,)) whose sum over all rows does not fit the inputs: the column checksum.

    The weights are taken as they are stored now. A row that is wrong while no column is therefore says that weights
    changed, and a row and a column that are wrong together say which element was computed wrong.
    """
    x, y = inputs.detach().reshape(-1, weight.shape[1]).double(), output.detach().reshape(-1, len(weight)).double()
    stored = weight.detach().double()
    rounding, limit = Rounding.of(output), deviations(false_alarms) ** 2
    residual = y.sum(0) - F.linear(x.sum(0), stored)
    if bias is not None:
        residual -= len(x) * bias.detach().double()
    terms = stored.square() @ x.square().sum(0) * rounding.of_terms(weight.shape[1])
    variance = terms + rounding.of_outputs(weight.shape[1], len(x)) * y.square().sum(0) + rounding.floor(len(x))
    return (~(residual.square() < limit * variance)).nonzero().flatten()


def linear_check(layer: nn.Linear, sums: Sums, false_alarms: float) -> LinearCheck:
    """Return the check of ``layer``, whose weights are those of ``sums``."""
    return LinearCheck(sums, *weight_and_bias(layer), false_alarms)
