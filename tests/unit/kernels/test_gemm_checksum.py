"""A product that is summed while it is computed: the product of the reference, its sums, and the wrong rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.hardening.guards.checksum_fused import fused_law
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_sums import Sums
from holdfast.seeds import derive

if TYPE_CHECKING:
    from holdfast._kernels.gemm_checksum import FusedLaw

ALARM = 1e-9
SIZES = [(1, 1, 1), (5, 16, 40), (130, 70, 129), (257, 200, 300)]


def law_of(weight: Tensor, bias: Tensor | None) -> FusedLaw:
    return fused_law(LinearCheck(Sums.of(weight, bias), weight, bias, ALARM), weight.dtype)


def whole_numbers(rows: int, inputs: int, outputs: int, device: torch.device) -> tuple[nn.Linear, Tensor]:
    """Return a layer and inputs of small integers, whose products and sums are exact in any order."""
    generator = derive(rows, "gemm").torch()

    def draw(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(draw(outputs, inputs))
        layer.bias.copy_(draw(outputs))
    return layer.to(device), draw(rows, inputs).to(device)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_product_and_sums_are_exact_where_arithmetic_is(
    device: torch.device, rows: int, inputs: int, outputs: int, biased: bool
) -> None:
    from holdfast._kernels.gemm_checksum import EXPECTED, SQUARES, SUMS, product, wrong_flags

    layer, x = whole_numbers(rows, inputs, outputs, device)
    bias = layer.bias.detach() if biased else None
    law = law_of(layer.weight, bias)
    found = product(x, layer.weight.detach(), bias, law, columns=True)
    expected = F.linear(x, layer.weight, bias)
    assert torch.equal(found.output, expected)
    totals = found.parts.double().sum(1)
    assert torch.equal(totals[SUMS], expected.double() @ law.signs.double())
    assert torch.equal(totals[SQUARES], expected.double().square().sum(1))
    assert torch.equal(totals[EXPECTED] + float(law.numbers[0]), totals[SUMS])
    assert torch.equal(found.columns.double().sum(0), expected.double().sum(0))
    assert not wrong_flags(found, law).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_clean_products_raise_no_alarm_and_damaged_weights_do(device: torch.device, dtype: torch.dtype) -> None:
    from holdfast._kernels.gemm_checksum import product, wrong_flags

    if dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter multiplies the bit patterns of bf16 as whole numbers; a GPU runs this")
    generator = derive(4, "product").torch()
    layer = nn.Linear(300, 137).to(dtype)
    with torch.no_grad():
        for item in layer.parameters():
            item.copy_(torch.randn(item.shape, generator=generator) / 17)
    x = torch.randn(150, 300, generator=generator).to(dtype).to(device)
    layer = layer.to(device)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    law = law_of(weight, bias)
    found = product(x, weight, bias, law)
    assert torch.allclose(found.output.float(), F.linear(x.float(), weight.float(), bias.float()), rtol=1e-2, atol=1e-2)
    assert not wrong_flags(found, law).any()
    weight[100, 200] += 0.5
    flags = wrong_flags(product(x, weight, bias, law), law)
    assert flags.float().mean() > 0.9  # all rows but those that hold almost nothing at column 200
    weight[100, 200] = math.nan
    assert wrong_flags(product(x, weight, bias, law), law).all()


def test_a_wrong_row_is_told_from_right_ones(device: torch.device) -> None:
    from holdfast._kernels.gemm_checksum import SUMS, product, wrong_flags

    layer, x = whole_numbers(130, 70, 129, device)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    law = law_of(weight, bias)
    found = product(x, weight, bias, law)
    found.parts[SUMS, 1, 128] += 1
    found.parts[SUMS, 0, 3] = math.inf
    assert wrong_flags(found, law).nonzero().flatten().tolist() == [3, 128]


def test_nothing_is_multiplied_where_there_are_no_rows(device: torch.device) -> None:
    from holdfast._kernels.gemm_checksum import product, wrong_flags

    layer, x = whole_numbers(4, 20, 30, device)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    law = law_of(weight, bias)
    found = product(x[:0], weight, bias, law)
    assert found.output.shape == (0, 30)
    assert wrong_flags(found, law).tolist() == []


def cut_off(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply as tensor cores do: eight exact products at once, and of each sum what float32 holds, truncated."""
    total = torch.zeros(len(x), len(weight))
    for first in range(0, x.shape[1], 8):
        part = slice(first, first + 8)
        exact = total.double() + x[:, part].double() @ weight[:, part].double().t()
        near = exact.float()
        total = torch.where(near.double().abs() > exact.abs(), near.nextafter(torch.zeros_like(near)), near)
    return total


@pytest.mark.parametrize("inputs", [1024, 4096, 8192])
def test_what_tensor_cores_cut_off_raises_no_alarm(inputs: int) -> None:
    """Truncated sums are all too small, by the more the longer they are; a fault is far above that."""
    generator = derive(6, "cut off").torch()
    weight = (torch.randn(128, inputs, generator=generator) / math.sqrt(inputs)).bfloat16()
    x = F.gelu(torch.randn(96, inputs, generator=generator)).bfloat16()
    law, output = law_of(weight, None), cut_off(x, weight)
    bias, terms, outputs, limit, floor = law.numbers.tolist()

    def beyond(output: Tensor) -> Tensor:
        """How many times the threshold the residual of each row is."""
        wide = output.double()
        residual = wide @ law.signs.double() - x.double() @ law.column.double() - bias
        spread = terms * (x.double().square() @ law.gram.double()) + outputs * wide.square().sum(1)
        return residual.abs() / (limit * spread + floor).sqrt()

    assert beyond(output).max() < 0.5
    assert beyond(output + 1e-3 * output.norm(dim=1, keepdim=True) * (torch.arange(128) == 5)).min() > 1
