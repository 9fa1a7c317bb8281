"""Checksums in plain fp64, one formula after the other: what the fast checks are held against in tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.hardening.guards.checksum_rounding import Rounding, deviations


def row_residuals(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, signs: Tensor) -> Tensor:
    """Return D of the rounding model for x (M, K), y (M, N), weight (N, K): fp64, shape (M,)."""
    column = (signs[:, None].double() * weight.double()).sum(0)
    shift = 0.0 if bias is None else (signs.double() * bias.double()).sum()
    return (y.double() * signs.double()).sum(1) - (x.double() * column).sum(1) - shift


def row_thresholds(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, false_alarms: float) -> Tensor:
    """Return z standard deviations of what rounding does to each row's residual: fp64, shape (M,)."""
    rounding = Rounding.of(y)
    terms = (x.double().square() * weight.double().square().sum(0)).sum(1)
    squares = y.double().square().sum(1)
    length = 0.0 if bias is None else float(bias.double().square().sum())
    variance = rounding.of_terms(weight.shape[1]) * terms + rounding.floor(len(weight), length)
    variance += rounding.of_outputs(weight.shape[1], len(weight)) * squares
    return deviations(false_alarms) * variance.sqrt()


def wrong_rows(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, signs: Tensor, false_alarms: float
) -> list[int]:
    """Return the rows whose residual exceeds its threshold, or is no number."""
    residuals = row_residuals(x, y, weight, bias, signs)
    thresholds = row_thresholds(x, y, weight, bias, false_alarms)
    return [row for row in range(len(x)) if not abs(residuals[row]) < thresholds[row]]


def patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
            ) -> Tensor:  # fmt: skip
    """Return the windows that a convolution of x (batch, C, H, W) multiplies: (batch, positions, C * kh * kw)."""
    windows = torch.nn.functional.unfold(
        x.double(), tuple(kernel), dilation=tuple(dilation), padding=tuple(padding), stride=tuple(stride)
    )
    return windows.transpose(1, 2)
