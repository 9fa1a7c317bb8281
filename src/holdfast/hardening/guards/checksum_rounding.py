"""How far rounding alone may move a checksum: the variance behind every threshold.

The model is that of variance-based thresholds for algorithm-based fault tolerance (V-ABFT): rounding errors are
independent, uniform within half a unit in the last place, and so have a variance, where the classical analysis adds up
their worst cases. One rounding of a value v to a significand of p bits errs by at most u |v| with u = 2**-p, and its
variance is at most u**2 v**2 / 3.

**A product.** Y = X W' with X (M, K) and W (N, K). Element y[m, n] is a chain of K additions whose partial sums are
p[k], so its variance is at most (u**2 / 3) * sum over k of p[k]**2. Over the outputs n the partial sums of one row are

    sum over n of p[k]**2  <=  Q[m] + |y[m]|**2,    Q[m] = sum over j of x[m, j]**2 * g[j],   g[j] = |W[:, j]|**2

where Q is what a sum of unrelated terms reaches and the second term what terms that all point one way reach. One
chain of K additions is the worst order; kernels keep several partial sums, so the real deviation is a few times
smaller. That slack is what keeps correlated errors from raising false alarms.

**The checksum of a row.** D[m] = sum over n of s[n] y[m, n] - sum over j of c[j] x[m, j], with random signs s and
c = s W. Signs matter: a plain sum of weights that lean one way is large, and its rounding would drown the fault.
With u for accumulation, v for the stored output (0 where that is the same), and L = K + 1 additions, bias included:

    Var D[m]  <=  (u**2 / 3) * (L * (Q[m] + C[m]) + (2 L + N) * |y[m]|**2)  +  (v**2 / 3) * |y[m]|**2

C[m] = sum over j of x[m, j]**2 c[j]**2 is the checksum's own chain. A sum of independent errors uniform in symmetric
intervals is sub-Gaussian with its own variance, so P(|D| > z sd) <= 2 exp(-z**2 / 2): from a wanted chance of a false
alarm p follows z = sqrt(2 ln(2 / p)), 7.5 for 1e-12.

A fault is seen when it moves a row's checksum by more than z sd. What stays below moves the row's sum by less than a
few times its own rounding.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat

FALSE_ALARMS = 1e-12  # chance per row and pass that rounding alone looks like a fault
_WORKS = {torch.float64: torch.float64, torch.float32: torch.float32}
_WORKS |= {torch.bfloat16: torch.float32, torch.float16: torch.float32}  # what kernels accumulate these in


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding to nearest: 2**-24 for fp32, 2**-8 for bf16, 2**-11 for fp16."""
    return torch.finfo(dtype).eps / 2


def deviations(false_alarms: float) -> float:
    """Return z: how many standard deviations rounding exceeds with a chance of at most ``false_alarms``.

    Raises:
        InvalidConfig: a chance outside (0, 1).
    """
    if not 0 < false_alarms < 1:
        raise InvalidConfig(f"a chance of false alarms lies in (0, 1), not {false_alarms}", hint="the usual is 1e-12")
    return math.sqrt(2 * math.log(2 / false_alarms))


@dataclass(frozen=True, slots=True)
class Rounding:
    """What the roundings of one product amount to.

    Attributes:
        work: dtype that products are accumulated in.
        unit: its unit roundoff u, or that of TF32 where the device rounds the factors to it, or of fp16 where it
            accumulates in that.
        stored: unit roundoff of the stored output; 0 where the output is stored as it was accumulated.
        least: half the distance of the smallest stored numbers, below which an error is not relative.
    """

    work: torch.dtype
    unit: float
    stored: float
    least: float

    @classmethod
    def of(cls, output: Tensor, *, convolution: bool = False) -> Rounding:
        """Return the roundings of a product with this output, as torch is set to compute it now.

        Args:
            output: of a matrix product, or of a convolution.
            convolution: which of them; on a GPU each has a switch of its own for TF32.

        Raises:
            UnsupportedFormat: not fp64, fp32, bf16 or fp16.
        """
        if not output.is_cuda:
            return cls.of_dtype(output.dtype)
        if convolution:
            return cls.of_dtype(output.dtype, tf32=torch.backends.cudnn.allow_tf32)
        matmul = torch.backends.cuda.matmul
        narrow = output.dtype == torch.float16 and bool(getattr(matmul, "allow_fp16_accumulation", False))
        return cls.of_dtype(output.dtype, tf32=matmul.allow_tf32, narrow=narrow)

    @classmethod
    @functools.lru_cache(maxsize=32)
    def of_dtype(cls, dtype: torch.dtype, *, tf32: bool = False, narrow: bool = False) -> Rounding:
        """Return the roundings of a product stored as ``dtype``; a ``narrow`` one is accumulated in that dtype too."""
        if dtype not in _WORKS:
            raise UnsupportedFormat(
                f"checksums have no threshold for {dtype}", hint="fp64, fp32, bf16 and fp16 products can be checked"
            )
        work, info = _WORKS[dtype], torch.finfo(dtype)
        unit = 2.0**-11 if tf32 and dtype == torch.float32 else unit_roundoff(dtype if narrow else work)
        return cls(work, unit, unit_roundoff(dtype) if dtype != work else 0.0, info.smallest_normal * info.eps / 2)

    def floor(self, outputs: int, bias: float = 0.0) -> float:
        """Return the variance that is there even for zero rows: subnormal numbers, and the sum of a bias.

        Args:
            outputs: number N of elements that a checksum adds up.
            bias: squared length of the bias.
        """
        subnormal = outputs * self.least**2 / 3
        return max(subnormal + self.unit**2 / 3 * outputs * bias, 1e-30)

    def of_terms(self, chain: int) -> float:
        """Return the factor of Q and C for products of ``chain`` terms."""
        return self.unit**2 / 3 * (chain + 1)

    def of_outputs(self, chain: int, outputs: int) -> float:
        """Return the factor of the squared length of a row of ``outputs`` elements."""
        return self.unit**2 / 3 * (2 * (chain + 1) + outputs) + self.stored**2 / 3
