"""Comparing an observed output with the golden one: bits first, then distance, then the task.

An output of another shape is never compared by broadcasting: it is an outcome of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics import bits

_TINY = 1e-300  # keeps a golden output of nothing but zeros from dividing by zero


class Outcome(StrEnum):
    """What became of one trial; where two apply, the one that comes first here among the failures counts.

    DUE precedes DETECTED, DETECTED precedes CRITICAL, and CRITICAL precedes SDC. Only the golden bits make a trial
    CORRECTED, LATENT or MASKED.
    """

    MASKED = "masked"  # the same bits came out
    SDC = "sdc"  # silent data corruption: other bits, same decision
    CRITICAL = "critical"  # silent data corruption that changes the decision of the task, usually the top-1 class
    DETECTED = "detected"  # a check refused the result, or raised an alarm it could not settle
    DUE = "due"  # detectable, unrecoverable: see Cause
    CORRECTED = "corrected"  # a guard acted where it does not without the fault, and the golden bits came out
    LATENT = "latent"  # the golden bits came out, but the pass left other bits in the state of the model


class Cause(StrEnum):
    """What made a trial DUE."""

    NON_FINITE = "non-finite"  # NaN or infinity came out
    EXCEPTION = "exception"  # the model raised
    HANG = "hang"  # the pass overran its deadline
    SHAPE = "shape"  # an output of another shape, dtype or kind


@dataclass(frozen=True, slots=True)
class Comparison:
    """Per-sample comparison; every field has shape (batch,).

    Distances are infinite where a NaN or infinity came out. ``top5_left`` is SDC-5 of Li et al. (SC 2017): the new
    winner is none of the five golden favourites.
    """

    bit_equal: Tensor  # bool
    max_ulp: Tensor  # float64; representable values between golden and observed, at most
    max_relative: Tensor  # float64; largest difference over the largest golden magnitude of the sample
    top1_changed: Tensor  # bool
    nonfinite: Tensor  # bool
    max_absolute: Tensor  # float64; largest difference
    divergence: Tensor  # float64; Kullback-Leibler, golden to observed softmax, in nats
    probability: Tensor  # float64; largest change of a class's softmax probability, 0..1
    top5_left: Tensor  # bool
    margin: Tensor  # float64; lead of the golden winner, as a share of its golden lead; NaN where that was zero

    def outcome(self, row: int) -> Outcome:
        """Classify one sample by its top-1 class."""
        if self.nonfinite[row]:
            return Outcome.DUE
        if self.bit_equal[row]:
            return Outcome.MASKED
        return Outcome.CRITICAL if self.top1_changed[row] else Outcome.SDC


@dataclass(frozen=True, slots=True)
class Distances:
    """How far apart two outputs of any shape are; every field has shape (batch,) and means what it does above."""

    bit_equal: Tensor  # bool
    nonfinite: Tensor  # bool
    max_ulp: Tensor  # float64
    max_relative: Tensor  # float64
    max_absolute: Tensor  # float64


def distances(golden: Tensor, observed: Tensor) -> Distances:
    """Measure two float outputs of one shape and dtype, (batch, ...)."""
    golden, observed = golden.reshape(len(golden), -1).contiguous(), observed.reshape(len(observed), -1).contiguous()
    nonfinite = ~torch.isfinite(observed).all(1)
    before = golden.double()
    absolute = (before - observed.double()).abs().amax(1)

    def finite(value: Tensor) -> Tensor:
        return torch.where(nonfinite, torch.inf, value)

    return Distances(
        bit_equal=(bits.int_view(golden) == bits.int_view(observed)).all(1),
        nonfinite=nonfinite,
        max_ulp=finite(bits.ulp_distance(golden, observed).amax(1)),
        max_relative=finite(absolute / before.abs().amax(1).clamp_min(_TINY)),
        max_absolute=finite(absolute),
    )


def compare(golden: Tensor, observed: Tensor) -> Comparison:
    """Compare two float outputs of shape (batch, classes).

    Raises:
        InvalidConfig: shapes or dtypes differ.
    """
    if golden.shape != observed.shape or golden.dtype != observed.dtype or golden.dim() != 2:
        raise InvalidConfig(f"cannot compare {tuple(golden.shape)} with {tuple(observed.shape)}, two (batch, classes)")
    same = (bits.int_view(golden.contiguous()) == bits.int_view(observed.contiguous())).all(1)
    if golden.device.type == "cpu" and bool(same.all()) and bool(torch.isfinite(golden).all()):
        return _equal(golden, same)  # on a GPU, asking would cost more than comparing
    found = distances(golden, observed)
    before, after = golden.double(), observed.double()
    divergence, probability = softmax_distance(before, after)
    winner, chosen = golden.argmax(1, keepdim=True), observed.argmax(1, keepdim=True)
    return Comparison(
        bit_equal=same,
        max_ulp=found.max_ulp,
        max_relative=found.max_relative,
        top1_changed=(winner != chosen).squeeze(1),
        nonfinite=found.nonfinite,
        max_absolute=found.max_absolute,
        divergence=torch.where(found.nonfinite, torch.inf, divergence),
        probability=torch.where(found.nonfinite, torch.inf, probability),
        top5_left=~(golden.topk(min(5, golden.shape[1])).indices == chosen).any(1),
        margin=torch.where(found.nonfinite, torch.nan, _margin(before, after, winner)),
    )


def _equal(golden: Tensor, same: Tensor) -> Comparison:
    """Return the comparison of a finite output with itself."""
    none, no = torch.zeros(len(golden), dtype=torch.float64, device=golden.device), ~same
    double = golden.double()
    margin = _margin(double, double, golden.argmax(1, keepdim=True))
    return Comparison(same, none, none, no, no, none, none, none, no, margin)


def softmax_distance(golden: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Return (Kullback-Leibler divergence in nats, largest change of a probability) of softmax over the last dimension.

    Both are float64 and lack that dimension; they mean nothing where ``observed`` is not finite.
    """
    before, after = torch.log_softmax(golden.double(), -1), torch.log_softmax(observed.double(), -1)
    # rounding can leave a divergence of equal distributions a hair below zero
    divergence = (before.exp() * (before - after)).sum(-1).clamp_min(0.0)
    return divergence, (before.exp() - after.exp()).abs().amax(-1)


def _margin(golden: Tensor, observed: Tensor, winner: Tensor) -> Tensor:
    """Return the lead of the golden winner, int64 (batch, 1), over the best other class, observed over golden."""
    if golden.shape[1] < 2:
        return torch.full_like(golden[:, 0], torch.nan)

    def lead(scores: Tensor) -> Tensor:
        rest = scores.scatter(1, winner, -torch.inf).amax(1)
        return scores.gather(1, winner).squeeze(1) - rest

    before = lead(golden)
    return torch.where(before > 0, lead(observed) / before, torch.nan)
