"""Rules that need no reference: the number format of a head shows in the grid its outputs lie on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics import bits

CANNOT_TELL = "cannot tell"
_MINIMUM = 32  # words; a chance of 2**-13 each that an fp32 word looks like fp16


@dataclass(frozen=True, slots=True)
class GridVerdict:
    """``dtype`` is fp32, fp16, bf16 or ``cannot tell``; the fractions are the evidence."""

    dtype: str
    low16_zero: float  # share of non-zero words whose low 16 bits are zero: all of them in bf16
    low13_zero: float  # share whose low 13 bits are zero: all of them in fp16 (and in bf16)
    words: int


def dtype_from_outputs(outputs: Tensor) -> GridVerdict:
    """Tell the format in which float32 ``outputs`` were computed last, from their trailing bits alone.

    A bf16 value has at most 8 significant bits and an fp16 value 11, so cast to fp32 their low 16 or 13 bits are zero;
    an fp32 result has them zero by chance only. Outputs rounded to decimals, or too few of them, fit no grid and give
    ``cannot tell`` rather than a guess.

    Raises:
        InvalidConfig: not float32.
    """
    if str(outputs.dtype) != "torch.float32":
        raise InvalidConfig(f"the rule reads float32 words, not {outputs.dtype}")
    words = bits.int_view(outputs.contiguous())[outputs != 0]
    if words.numel() == 0:
        return GridVerdict(CANNOT_TELL, 0.0, 0.0, 0)
    low16 = float(((words & 0xFFFF) == 0).double().mean())
    low13 = float(((words & 0x1FFF) == 0).double().mean())
    return GridVerdict(_decide(low16, low13, outputs, words.numel()), low16, low13, words.numel())


def _decide(low16: float, low13: float, outputs: Tensor, count: int) -> str:
    if count < _MINIMUM or (_is_rounded(outputs, range(1)) if low13 == 1 else _is_rounded(outputs, range(5))):
        return CANNOT_TELL
    if low16 == 1:
        return "bf16"
    if low13 == 1:
        return "fp16"
    return "fp32" if low13 < 0.05 else CANNOT_TELL


def _is_rounded(outputs: Tensor, places: range) -> bool:
    """Say whether every output is a decimal of few places, which JSON rounding leaves.

    Not asked of words that end in zeros, except for integers: bf16 values above 8 are multiples of 1/16, and so have
    four places of their own.
    """
    wide = outputs.double()
    return any(bool(((wide * 10**place).round() / 10**place).float().equal(outputs)) for place in places)
