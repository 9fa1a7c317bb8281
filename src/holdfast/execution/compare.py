"""Comparing an observed output with the golden one: bits first, then distance, then the task."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics import bits


class Outcome(StrEnum):
    """What became of one trial."""

    MASKED = "masked"  # the same bits came out
    SDC = "sdc"  # silent data corruption: other bits, same decision
    CRITICAL = "critical"  # silent data corruption that changes the top-1 class
    DETECTED = "detected"  # a check refused the result
    DUE = "due"  # detectable, unrecoverable: NaN, infinity or a crash


@dataclass(frozen=True, slots=True)
class Comparison:
    """Per-sample comparison; every field has shape (batch,).

    ``max_ulp`` counts representable values between golden and observed; ``max_relative`` is the largest difference
    over the largest golden magnitude of the sample. Both are infinite where a NaN or infinity came out.
    """

    bit_equal: Tensor  # bool
    max_ulp: Tensor  # float64
    max_relative: Tensor  # float64
    top1_changed: Tensor  # bool
    nonfinite: Tensor  # bool

    def outcome(self, row: int) -> Outcome:
        """Classify one sample."""
        if self.nonfinite[row]:
            return Outcome.DUE
        if self.bit_equal[row]:
            return Outcome.MASKED
        return Outcome.CRITICAL if self.top1_changed[row] else Outcome.SDC


def compare(golden: Tensor, observed: Tensor) -> Comparison:
    """Compare two float outputs of shape (batch, classes).

    Raises:
        InvalidConfig: shapes or dtypes differ.
    """
    if golden.shape != observed.shape or golden.dtype != observed.dtype or golden.dim() != 2:
        raise InvalidConfig(f"cannot compare {tuple(golden.shape)} with {tuple(observed.shape)}, two (batch, classes)")
    nonfinite = ~torch.isfinite(observed).all(1)
    relative = (golden.double() - observed.double()).abs().amax(1) / golden.double().abs().amax(1).clamp_min(1e-300)
    same = bits.int_view(golden.contiguous()) == bits.int_view(observed.contiguous())
    return Comparison(
        bit_equal=same.all(1),
        max_ulp=torch.where(nonfinite, torch.inf, bits.ulp_distance(golden, observed).amax(1)),
        max_relative=torch.where(nonfinite, torch.inf, relative),
        top1_changed=golden.argmax(1) != observed.argmax(1),
        nonfinite=nonfinite,
    )
