"""Bits of tensors against Python integers and the IEEE 754 patterns everybody knows."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics import bits

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize(
    ("dtype", "value", "bit", "expected"),
    [
        (torch.float32, 1.0, 30, math.inf),
        (torch.float32, 1.0, 31, -1.0),
        (torch.float32, 1.0, 23, 0.5),
        (torch.float32, 1.0, 22, 1.5),
        (torch.float32, 0.0, 0, 2.0**-149),
        (torch.float64, 1.0, 62, math.inf),
        (torch.float16, 1.0, 14, math.inf),
        (torch.bfloat16, 1.0, 14, math.inf),
        (torch.bfloat16, 1.0, 6, 1.5),
        (torch.float8_e5m2, 1.0, 6, math.inf),
        (torch.float8_e4m3fn, 1.0, 7, -1.0),
        (torch.int8, 1, 7, -127),
        (torch.int32, 0, 31, -(2**31)),
        (torch.int64, 0, 63, -(2**63)),
    ],
)
def test_known_flips(dtype: torch.dtype, value: float, bit: int, expected: float) -> None:
    flipped = bits.flip(torch.tensor([value]).to(dtype), 0, bit)
    assert flipped.dtype == dtype
    assert flipped.double().item() == expected


def test_e4m3fn_has_nan_and_no_infinity() -> None:
    assert math.isnan(bits.flip(torch.tensor([1.875]).to(torch.float8_e4m3fn), 0, 6).float().item())


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_each_bit_flips_back(dtype: torch.dtype) -> None:
    x = torch.tensor([3.0, 0.5, 1.0]).to(dtype)
    for bit in range(bits.bit_width(dtype)):
        once = bits.flip(x, 1, bit)
        assert bits.hamming_distance(once, x) == 1
        assert bits.bit_equal(bits.flip(once, 1, bit), x)


def test_flips_share_memory_and_keep_the_rest() -> None:
    x = torch.zeros(2, 3)
    bits.xor_(x, torch.tensor([4, 1]), torch.tensor([1 << 31, 1 << 30]))
    assert x.flatten().tolist() == [0, 2.0, 0, 0, -0.0, 0]
    assert math.copysign(1, x[1, 1].item()) == -1


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_no_flips_is_fine(dtype: torch.dtype) -> None:
    x = torch.ones(3).to(dtype)
    nothing = torch.zeros(0, dtype=torch.int64)
    bits.xor_(x, nothing, nothing)
    assert x.double().tolist() == [1, 1, 1]


def test_bad_arguments() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(InvalidConfig, match="contiguous"):
        bits.xor_(x.t(), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(InvalidConfig, match="positions"):
        bits.xor_(x, torch.tensor([0]), torch.tensor([1, 2]))
    with pytest.raises(InvalidConfig, match=r"bits 0\.\.31"):
        bits.flip(x, 0, 32)
    with pytest.raises(UnsupportedFormat, match="complex64"):
        bits.int_view(torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(UnsupportedFormat, match="bool"):
        bits.int_view(torch.zeros(1, dtype=torch.bool))
    with pytest.raises(InvalidConfig, match="compare"):
        bits.hamming_distance(torch.zeros(2), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_set_bits_against_python(dtype: torch.dtype) -> None:
    width = bits.bit_width(dtype)
    top = 1 << (width - 1)
    for value in (0, 1, 5, 100, 127):
        found = int(bits.set_bits(torch.tensor([value], dtype=dtype), top | 2, 1)[0])
        assert found % 2**width == ((value | top | 2) & ~1) % 2**width


def test_zero_wins_over_one() -> None:
    assert bits.set_bits(torch.tensor([0], dtype=torch.uint8), 3, 1).item() == 2


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_popcount_keeps_the_shape(shape: tuple[int, ...]) -> None:
    found = bits.popcount(torch.full(shape, 7, dtype=torch.int32))
    assert found.shape == shape
    assert (found == 3).all()


def test_popcount_of_a_float_is_that_of_its_pattern() -> None:
    values = [0.0, -0.0, 1.0, math.pi, -1e30, math.inf]
    expected = [struct.unpack("<I", struct.pack("<f", value))[0].bit_count() for value in values]
    assert bits.popcount(torch.tensor(values)).tolist() == expected


def test_bit_equal_is_stricter_and_laxer_than_equal() -> None:
    assert bits.bit_equal(torch.tensor([math.nan]), torch.tensor([math.nan]))
    assert not bits.bit_equal(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not bits.bit_equal(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not bits.bit_equal(torch.zeros(1), torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_neighbours_are_one_ulp_apart(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -1.0, 1e-30, 3.0e30], dtype=dtype)
    up = torch.nextafter(x, torch.full_like(x, math.inf))
    assert bits.ulp_distance(x, up).tolist() == [1, 1, 1, 1]
    assert bits.ulp_distance(x, torch.nextafter(up, torch.full_like(x, math.inf))).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulp_of_zeros_and_nan(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, math.nan, 1.0]).to(dtype)
    assert bits.ulp_distance(x, torch.tensor([-0.0, 1.0, 1.0]).to(dtype)).tolist() == [0, math.inf, 0]


def test_ulp_across_zero() -> None:
    least = torch.tensor([2.0**-149])
    assert bits.ulp_distance(least, -least).item() == 2
    huge = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    assert bits.ulp_distance(huge, -huge).item() == pytest.approx(2 * 0x7FEFFFFFFFFFFFFF)
