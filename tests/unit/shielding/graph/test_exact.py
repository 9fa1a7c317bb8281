"""Exact arithmetic of the trusted world: right, and indifferent to the order in which anything is summed."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdfast.shielding.graph import exact


def numbers(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


@given(st.integers(0, 2**31), st.integers(1, 3000), st.floats(1e-20, 1e20))
def test_fixed_point_sums_are_the_sums_of_rational_arithmetic(seed: int, terms: int, spread: float) -> None:
    x = numbers(terms, seed=seed, spread=spread)
    whole, unit = exact.fixed_point(x, (0,))
    assert int(whole.sum()) == sum(int(part) for part in whole.tolist())
    errors = [abs(Fraction(part) * Fraction(float(unit)) - Fraction(value)) for part, value in
              zip(whole.tolist(), x.tolist(), strict=True)]  # fmt: skip
    assert max(errors) <= Fraction(float(unit)) / 2


def test_squares_of_the_largest_values_still_sum_exactly() -> None:
    x = torch.full((4096,), 3.9999)
    whole, _ = exact.fixed_point(x, (0,), power=2)
    assert int((whole * whole).sum()) == 4096 * int(whole[0]) ** 2 < 2**53


@pytest.mark.parametrize("reduce", [exact.total, exact.mean])
def test_no_order_of_summation_changes_a_bit(reduce: object) -> None:
    x = numbers(8, 1000, spread=1e3)
    shuffled = x[:, torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(reduce(x, [1]), reduce(shuffled, [1]))  # type: ignore[operator]
    assert not torch.equal(x.sum(1), shuffled.sum(1))  # which float sums do not survive


def test_reductions_are_those_of_float64() -> None:
    x = numbers(3, 5, 7, 11)
    assert torch.allclose(exact.mean(x, (2, 3), True), x.double().mean((2, 3), True).float(), rtol=1e-6, atol=1e-9)
    assert torch.allclose(exact.total(x, [-1]), x.double().sum(-1).float(), rtol=1e-5, atol=1e-6)
    assert exact.mean(torch.zeros(2, 4), [1]).tolist() == [0.0, 0.0]


def test_normalisations_are_those_of_float64() -> None:
    x, weight, bias = numbers(2, 6, 8, spread=50.0) + 30.0, numbers(8, seed=1), numbers(8, seed=2)
    wide = F.layer_norm(x.double(), (8,), weight.double(), bias.double(), 1e-6)
    assert torch.allclose(exact.layer_norm(x, (8,), weight, bias, 1e-6), wide.float(), atol=2e-6)
    wide = F.rms_norm(x.double(), (8,), weight.double(), 1e-6)
    assert torch.allclose(exact.rms_norm(x, (8,), weight, 1e-6), wide.float(), atol=2e-6)
    weight, bias = numbers(6, seed=3), numbers(6, seed=4)
    wide = F.group_norm(x.double(), 3, weight.double(), bias.double(), 1e-5)
    assert torch.allclose(exact.group_norm(x, 3, weight, bias), wide.float(), atol=2e-6)


def test_a_constant_row_normalises_to_zero() -> None:
    assert exact.layer_norm(torch.full((2, 5), 7.0), (5,)).abs().max() == 0.0


def test_softmax_is_that_of_float64_and_masked_places_weigh_nothing() -> None:
    x = numbers(4, 50, spread=4.0)
    x[1, 3:] = -torch.inf
    got, wide = exact.softmax(x, -1, exact.softmax_table()), torch.softmax(x.double(), -1)
    assert (got - wide).abs().max() < 3e-4
    assert got[1, 3:].abs().max() == 0.0
    assert torch.allclose(got.sum(-1), torch.ones(4), atol=1e-6)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(exact.softmax(x[:, order], -1, exact.softmax_table()), got[:, order])


@pytest.mark.parametrize("options", [
    ((3, 3), (2, 2), (1, 1), False, True), ((3, 2), (2, 1), (1, 0), True, False), ((2, 2), (), (0, 0), True, True),
    ((3, 3), (1, 1), (1, 1), False, False), ((5, 5), (3, 3), (2, 2), True, True),
    ((2, 2), (2, 2), (0, 0), False, True, 3),
])  # fmt: skip
def test_average_pooling_is_that_of_float64(options: tuple[object, ...]) -> None:
    x = numbers(2, 3, 11, 10)
    kernel, stride, *rest = options
    wide = F.avg_pool2d(x.double(), kernel, stride or None, *rest)  # type: ignore[arg-type]
    assert torch.allclose(exact.average_pool(x, *options), wide.float(), atol=1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 5), (11, 2), (None, 4)])
def test_adaptive_pooling_is_that_of_float64(size: tuple[int | None, int]) -> None:
    x = numbers(2, 3, 11, 10)
    wide = F.adaptive_avg_pool2d(x.double(), size)  # type: ignore[arg-type]
    assert torch.allclose(exact.adaptive_average_pool(x, size), wide.float(), atol=1e-7)


@pytest.mark.parametrize("exponent", [-1, -0.5, 0.5, 1, 2, 3, 4])
def test_powers(exponent: float) -> None:
    x = numbers(100).abs() + 0.1
    assert torch.allclose(exact.whole_power(x, exponent), x.double().pow(exponent).float(), rtol=4e-7)
