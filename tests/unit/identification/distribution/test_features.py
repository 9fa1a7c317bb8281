"""Bits of outputs: sign, exponent, mantissa, in the order IEEE 754 writes them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.identification.distribution import float_bits
from holdfast.identification.distribution.features import grouped, trailing_zeros


def test_bits_are_those_that_struct_packs_most_significant_first():
    outputs = torch.tensor([[1.0, -2.5], [float(np.float32(0.1)), -0.0]])
    expected = [
        [int(bit) for value in row for byte in struct.pack(">f", value) for bit in f"{byte:08b}"]
        for row in outputs.tolist()
    ]
    assert float_bits(outputs).tolist() == expected


def test_groups_are_consecutive_rows_and_what_is_left_over_is_dropped():
    bits = float_bits(torch.arange(14.0).reshape(7, 2))
    assert grouped(bits, 3).shape == (2, 3 * 2 * 32)
    assert np.array_equal(grouped(bits, 3)[1], float_bits(torch.arange(6.0, 12.0)[None])[0])
    with pytest.raises(InvalidConfig, match="7 outputs make no example of 8"):
        grouped(bits, 8)


def test_trailing_zeros_of_every_word():
    rows = torch.tensor([[1 + 2**-23, 1.0], [1 + 2**-10, 0.0], [-1 - 2**-7, 3.0]])
    assert trailing_zeros(float_bits(rows)).tolist() == [[0, 23], [13, 32], [16, 22]]


def test_other_dtypes_are_refused():
    with pytest.raises(InvalidConfig, match="bfloat16"):
        float_bits(torch.zeros(2, 2, dtype=torch.bfloat16))
