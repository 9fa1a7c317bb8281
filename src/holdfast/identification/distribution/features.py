"""Outputs as bits: what HSPI-LD feeds its classifiers (Zhang et al., ICML 2025, section 3.2).

A float32 word becomes 32 features, most significant bit first: sign, 8 of exponent, 23 of mantissa. Outputs of bf16 and
fp16 nets are float32 words by then, and end in 16 and 13 zeros.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig

Bits = npt.NDArray[np.uint8]


def float_bits(outputs: Tensor) -> Bits:
    """Return the bits of float32 ``outputs`` (n, words), shape (n, words * 32), uint8 zeros and ones.

    Raises:
        InvalidConfig: another dtype or shape.
    """
    if outputs.dtype != torch.float32 or outputs.dim() != 2:
        raise InvalidConfig(f"bits are those of float32 outputs (n, words), not {outputs.dtype} {tuple(outputs.shape)}")
    words = outputs.detach().cpu().contiguous().numpy().astype(">f4")
    return np.unpackbits(words.view(np.uint8), axis=1)


def grouped(bits: Bits, size: int) -> Bits:
    """Return rows of ``size`` consecutive rows each, shape (n // size, size * features); what is left over is dropped.

    Raises:
        InvalidConfig: fewer rows than one example takes.
    """
    if size < 1 or len(bits) < size:
        raise InvalidConfig(
            f"{len(bits)} outputs make no example of {size}", hint="record more inputs, or smaller ones"
        )
    whole = len(bits) // size * size
    return bits[:whole].reshape(-1, size * bits.shape[1])


def trailing_zeros(bits: Bits) -> npt.NDArray[np.int64]:
    """Return the number of zeros at the end of each word of rows (n, words * 32), shape (n, words); 32 for a zero."""
    words = bits.reshape(len(bits), -1, 32)
    return np.where(words.any(axis=2), words[:, :, ::-1].argmax(axis=2), 32)
