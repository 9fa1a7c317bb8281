"""Checksums of products of two computed matrices, as in attention: nothing can be precomputed, but one side is summed.

Y = A B with signs s: Y s = A (B s). Summing B costs as much as reading it, the product with the sum one N-th of Y.

Attention in one call, softmax(Q K' * scale) V, keeps its probabilities to itself. They are computed again for the
single column V s, which costs more than the whole. What the roundings of the probabilities may do: with S the
largest score that |q| |k| scale allows, a score errs by u sqrt((d + 2) / 3) S, a probability by as much relative to
itself, and by its own rounding where it is stored in 16 bits. Errors of different keys are independent, so that

    Var D  <=  e**2 * sum over j of p[j] (v[j] s)**2 + chain terms of the product with V, as for any product,

where the sums over j are attention again, to the columns (V s)**2 and |v|**2, and p[j]**2 <= p[j].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.errors import UnsupportedFormat
from holdfast.hardening.guards.checksum_rounding import Rounding, deviations
from holdfast.hardening.guards.checksum_sums import kept_signs

PRODUCTS = frozenset({"matmul", "bmm", "mm"})
ATTENTION = "scaled_dot_product_attention"
_PART = 2  # the first look squares half of the outputs
_EXPONENTIAL = 4.0  # units in the last place that an exponential and a normalisation may lose


class ProductCheck:
    """Checks Y = A B for matrices A (..., M, K) and B (..., K, N).

    Args:
        false_alarms: chance per row that rounding alone raises an alarm.
    """

    def __init__(self, false_alarms: float) -> None:
        self._limit = deviations(false_alarms) ** 2

    def wrong(self, left: Tensor, right: Tensor, output: Tensor) -> Tensor:
        """Return the numbers of the rows of ``output`` (..., M, N) that its factors do not explain."""
        rounding = Rounding.of(output)
        a, b, y = left.detach().to(rounding.work), right.detach().to(rounding.work), output.detach().to(rounding.work)
        part = y[..., : -(-y.shape[-1] // _PART)].square().sum(-1)  # less than all of it
        passed = self._residual(a, b, y).square_() < self._limit * self._of_outputs(rounding, b) * part
        if passed.all():
            return torch.empty(0, dtype=torch.int64, device=y.device)
        a, b, y = a.double(), b.double(), y.double()  # a fault is rare: all of it once more
        fine = self._residual(a, b, y).square() < self._variance(rounding, a, b, y)
        return (~(fine | passed)).flatten().nonzero().flatten()

    @staticmethod
    def _residual(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        signs = kept_signs(y.shape[-1], "", y.dtype, y.device)
        return y @ signs - (a @ (b @ signs).unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def _of_outputs(rounding: Rounding, b: Tensor) -> float:
        return rounding.of_outputs(b.shape[-2], b.shape[-1])

    def _variance(self, rounding: Rounding, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        signs = kept_signs(y.shape[-1], "", y.dtype, y.device)
        power = b.square().sum(-1) + (b @ signs).square()
        terms = rounding.of_terms(b.shape[-2]) * (a.square() @ power.unsqueeze(-1)).squeeze(-1)
        outputs = self._of_outputs(rounding, b) * y.square().sum(-1)
        return self._limit * (terms + outputs + rounding.floor(y.shape[-1]))


class AttentionCheck:
    """Checks what ``scaled_dot_product_attention`` returned, shape (..., L, E).

    Args:
        false_alarms: chance per row that rounding alone raises an alarm.
    """

    def __init__(self, false_alarms: float) -> None:
        self._limit = deviations(false_alarms) ** 2

    def wrong(self, query: Tensor, key: Tensor, value: Tensor, output: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the numbers of the rows of ``output`` that the other tensors do not explain.

        Args:
            query: (..., L, d); ``key`` (..., S, d) and ``value`` (..., S, E) likewise.
            output: what was computed from them.
            options: masks, scale and flags that it was computed with.

        Raises:
            UnsupportedFormat: attention with dropout, which no second computation repeats.
        """
        if options.get("dropout_p"):
            raise UnsupportedFormat("attention with dropout has no checksum", hint="call model.eval()")
        rounding = Rounding.of(output)
        passed = self._fits(rounding, rounding.work, query, key, value, output, options)
        if not passed.all():
            passed |= self._fits(rounding, torch.float64, query, key, value, output, options)
        return (~passed).flatten().nonzero().flatten()

    def _fits(
        self, rounding: Rounding, work: torch.dtype, query: Tensor, key: Tensor, value: Tensor, output: Tensor,
        options: Mapping[str, Any],
    ) -> Tensor:  # fmt: skip
        q, k, v, y = (item.detach().to(work) for item in (query, key, value, output))
        signs = kept_signs(y.shape[-1], "", work, y.device)
        summed = v @ signs
        columns = torch.stack([summed, summed.square(), v.square().sum(-1)], -1)
        columns = F.pad(columns, (0, max(0, v.shape[-1] - columns.shape[-1])))  # kernels want heads of equal width
        given = {name: _as(item, work) for name, item in options.items()}
        expected, spread, length = F.scaled_dot_product_attention(q, k, columns, **given)[..., :3].unbind(-1)
        outputs = rounding.of_outputs(v.shape[-2], v.shape[-1]) * y.square().sum(-1)
        variance = self._relative(rounding, q, k, options) * spread + rounding.of_terms(v.shape[-2]) * length + outputs
        return (y @ signs - expected).square() < self._limit * (variance + rounding.floor(v.shape[-1]))

    @staticmethod
    def _relative(rounding: Rounding, q: Tensor, k: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return e**2: the variance of a probability relative to its square, at most."""
        scale = options.get("scale") or q.shape[-1] ** -0.5
        scores = q.square().sum(-1).sqrt() * _longest(k) * scale
        own = rounding.unit**2 / 3 * ((q.shape[-1] + 2) * scores.square() + _EXPONENTIAL**2)
        relative: Tensor = 2 * own + rounding.stored**2 / 3
        return relative


def _longest(k: Tensor) -> Tensor:
    """Return the length of the longest key of each sample: what one sample holds says nothing about another."""
    lengths = k.square().sum(-1)
    each = lengths.flatten(1).amax(1) if lengths.dim() > 1 else lengths.amax()
    return each.sqrt().view(-1, *[1] * (lengths.dim() - 1))


def _as(item: Any, work: torch.dtype) -> Any:
    return item.detach().to(work) if isinstance(item, Tensor) and item.is_floating_point() else item
