from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.hardening.guards.checksum_linear import LinearCheck, wrong_columns
from holdfast.hardening.guards.checksum_reference import row_residuals, row_thresholds, wrong_rows
from holdfast.hardening.guards.checksum_rounding import Rounding, deviations, unit_roundoff
from holdfast.hardening.guards.checksum_sums import Sums
from holdfast.numerics import bits
from holdfast.seeds import derive

CHANCE = 1e-12
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(5, 64, 10), (6, 40, 1600), (6, 1600, 40), (1, 7, 3)]


def layer(rows: int, inputs: int, outputs: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = derive(seed, "layer").torch()
    x = torch.randn(rows, inputs, generator=draw)
    weight = torch.randn(outputs, inputs, generator=draw) / inputs**0.5
    return x.to(dtype), weight.to(dtype), torch.randn(outputs, generator=draw).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fast_check_says_what_the_reference_says(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, bias = layer(*shape, dtype)
    sums = Sums.of(weight, bias)
    check, clean = LinearCheck(sums, weight, bias, CHANCE), F.linear(x, weight, bias)
    assert torch.allclose(check.thresholds(x, clean), row_thresholds(x, clean, weight, bias, CHANCE))
    draw = derive(1, "faults").torch()
    for step in range(40):
        y = clean.clone()
        if step:
            place = torch.randint(0, y.numel(), (1,), generator=draw)
            bit = torch.randint(0, bits.bit_width(dtype), (1,), generator=draw)
            bits.xor_(y, place, bits.one_bit(bit))
        expected = wrong_rows(x, y, weight, bias, sums.signs, CHANCE)
        assert check.wrong(x, y).tolist() == expected
        assert step or expected == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 6e4])
def test_what_is_no_number_or_far_too_large_is_always_found(dtype: torch.dtype, value: float) -> None:
    x, weight, bias = layer(9, 64, 2000, dtype)
    check, y = LinearCheck(Sums.of(weight, bias), weight, bias, CHANCE), F.linear(x, weight, bias)
    y[4, 3] = value
    assert check.wrong(x, y).tolist() == [4]
    y[:] = value
    assert check.wrong(x, y).tolist() == list(range(9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_values_do_not_hide_behind_an_infinite_threshold(dtype: torch.dtype) -> None:
    x, weight, bias = layer(4, 64, 64, dtype)
    check, y = LinearCheck(Sums.of(weight, bias), weight, bias, CHANCE), F.linear(x, weight, bias)
    y[2, 5] = 3e38  # its square is no fp32 number
    assert check.wrong(x, y).tolist() == [2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_adverse_clean_products_raise_no_alarm(dtype: torch.dtype) -> None:
    """Inputs that all lean one way, outliers, cancellation, zeros: none of it is a fault."""
    for seed in range(10):
        x, weight, bias = layer(16, 300, 50, dtype, seed)
        relu, scaled = x.relu(), x * 10.0
        outliers = x.clone()
        outliers[:, [3, 250]] = torch.tensor([300.0, -300.0], dtype=dtype)
        cancelling = torch.cat([x[:, :150], -x[:, :150]], 1)
        paired = torch.cat([weight[:, :150], weight[:, :150]], 1)
        leaning = weight.abs()
        still, small = torch.zeros_like(x), weight * 1e-3
        pairs = [(relu, weight), (relu, leaning), (scaled, weight), (outliers, weight), (cancelling, paired)]
        for inputs, matrix in [*pairs, (still, weight), (x * 1e-6, small)]:
            for shift in (bias, None):
                check = LinearCheck(Sums.of(matrix, shift), matrix, shift, CHANCE)
                assert check.wrong(inputs, F.linear(inputs, matrix, shift)).tolist() == []


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_row_is_judged_by_itself(dtype: torch.dtype) -> None:
    """One far smaller than any clean row was is held against ``quick``, also where the row beside it is wrong."""
    x, weight, _ = layer(4, 64, 10, dtype)
    x[1] *= 2**-10
    sums, clean = Sums.of(weight, None), F.linear(x, weight)
    limits = LinearCheck(sums, weight, None, CHANCE).thresholds(x, clean)
    check = LinearCheck(sums, weight, None, CHANCE, float(limits[0]) / 2)
    clean[1, 0] += float(limits[1]) * 20
    assert float(limits[1]) * 20 < check.quick
    assert check.wrong(x, clean).tolist() == []
    clean[3, 0] += 1
    assert check.wrong(x, clean).tolist() == [3]
    assert LinearCheck(sums, weight, None, CHANCE).wrong(x, clean).tolist() == [1, 3]


def test_the_variance_is_above_what_rounding_does_and_not_far_above() -> None:
    """The model bounds the variance; in fp32 chains are cut into lanes, so it is loose there and tight in bf16."""
    for dtype, most in [(torch.float32, 40.0), (torch.bfloat16, 3.0)]:
        x, weight, bias = layer(400, 256, 128, dtype)
        y, signs = F.linear(x, weight, bias), Sums.of(weight, bias).signs
        modelled = row_thresholds(x, y, weight, bias, CHANCE) / deviations(CHANCE)
        seen = (row_residuals(x, y, weight, bias, signs) / modelled).square().mean().sqrt()
        assert 1 / most < seen < 1


def test_deviations_follow_from_the_chance() -> None:
    assert deviations(1e-12) == pytest.approx(7.527, abs=1e-3)
    assert 2 * math.exp(-(deviations(1e-5) ** 2) / 2) == pytest.approx(1e-5)
    for chance in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(InvalidConfig, match="chance"):
            deviations(chance)


def test_unit_roundoffs() -> None:
    assert [unit_roundoff(dtype) for dtype in DTYPES] == [2.0**-53, 2.0**-24, 2.0**-8, 2.0**-11]
    assert Rounding.of_dtype(torch.float32).stored == 0.0
    assert Rounding.of_dtype(torch.bfloat16) == Rounding(torch.float32, 2.0**-24, 2.0**-8, 2.0**-134)
    assert Rounding.of_dtype(torch.float32, tf32=True).unit == 2.0**-11
    with pytest.raises(UnsupportedFormat, match="float8"):
        Rounding.of_dtype(torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_element_is_located_by_row_and_column(dtype: torch.dtype) -> None:
    x, weight, bias = layer(12, 64, 30, dtype)
    y = F.linear(x, weight, bias)
    assert wrong_columns(x, y, weight, bias, CHANCE).tolist() == []
    y[7, 21] += 4
    check = LinearCheck(Sums.of(weight, bias), weight, bias, CHANCE)
    assert check.wrong(x, y).tolist() == [7]
    assert wrong_columns(x, y, weight, bias, CHANCE).tolist() == [21]


def test_a_changed_weight_is_in_every_row_and_in_no_column() -> None:
    x, weight, bias = layer(12, 64, 30, torch.float32)
    check = LinearCheck(Sums.of(weight, bias), weight, bias, CHANCE)
    weight[3, 9] += 1
    y = F.linear(x, weight, bias)
    assert check.wrong(x, y).tolist() == list(range(12))
    assert wrong_columns(x, y, weight, bias, CHANCE).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_single_flipped_bit_of_a_weight_is_restored(dtype: torch.dtype, groups: int) -> None:
    _, weight, bias = layer(1, 6, 8, dtype)
    sums, good, good_bias = Sums.of(weight, bias, groups), weight.clone(), bias.clone()
    assert sums.stand_for(weight, bias)
    for tensor, columns in ((weight, 6), (bias, 1)):
        for place in range(0, tensor.numel(), 5):
            for bit in range(bits.bit_width(dtype)):
                bits.xor_(tensor, torch.tensor([place]), bits.one_bit(torch.tensor([bit])))
                assert not sums.stand_for(weight, bias)
                found = sums.restored(weight, bias)
                assert found is not None, (place, bit)
                assert torch.equal(found.weight, good)
                assert torch.equal(found.bias, good_bias)
                assert found.places == ((place // columns, place % columns if columns > 1 else 6),)
                bits.xor_(tensor, torch.tensor([place]), bits.one_bit(torch.tensor([bit])))


def test_several_wrong_weights_are_restored_unless_they_share_a_column() -> None:
    _, weight, bias = layer(1, 20, 16, torch.float32)
    sums, good = Sums.of(weight, bias), weight.clone()
    weight[3, 4], weight[9, 5], weight[3, 6] = 7.0, math.nan, -math.inf
    found = sums.restored(weight, bias)
    assert found is not None
    assert torch.equal(found.weight, good)
    weight[4, 4] = 9.0
    assert sums.restored(weight, bias) is None
    assert sums.restored(good, bias) is None  # nothing is wrong, so nothing can be restored


def test_the_sums_know_when_they_were_hit_themselves() -> None:
    _, weight, bias = layer(1, 20, 16, torch.float32)
    sums = Sums.of(weight, bias)
    assert sums.intact()
    bits.xor_(sums.plain, torch.tensor([3]), bits.one_bit(torch.tensor([1])))
    assert not sums.intact()
    assert sums.stand_for(weight, bias)
