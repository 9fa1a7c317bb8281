"""Trusted leaves: whole-number products equal to wider arithmetic, and tables that saturate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.graph.leaves import WIDE_CODE, GroupedConvolution, Lookup, Product
from holdfast.shielding.integer import convolution_geometry, nearest_codes, weight_codes


@pytest.mark.parametrize(
    ("groups", "outputs", "stride", "padding", "dilation"),
    [
        (6, 6, (1, 1), (1, 1), (1, 1)),
        (6, 12, (2, 1), (0, 2), (1, 2)),
        (3, 9, (1, 2), (1, 0), (2, 1)),
        (2, 4, (3, 3), (2, 2), (1, 1)),
    ],
)
def test_grouped_convolutions_equal_those_of_float64(
    groups: int, outputs: int, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = (
        torch.randn(outputs, 6 // groups, 3, 2, generator=generator),
        torch.randn(outputs, generator=generator),
    )
    x = torch.randn(3, 6, 9, 8, generator=generator) * 2
    encoded = weight_codes(weight)
    shape = (outputs // groups, 6 // groups, 3, 2)
    high, wide = padding
    geometry = convolution_geometry(shape, stride, (wide, wide, high, high), dilation)
    layer = GroupedConvolution("g", geometry, groups, encoded, 0.01, bias, top_code=100)
    codes = nearest_codes(x, layer.activation_scale, 100).double()
    assert codes.abs().max() == 100
    whole = F.conv2d(codes, encoded.codes.double(), None, stride, padding, dilation, groups)
    assert whole.abs().max() <= layer.bound
    assert torch.equal(layer(x), whole.float() * layer.scale + bias.view(-1, 1, 1))


def test_depthwise_bound_is_reached_by_the_worst_input() -> None:
    weight = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    encoded = weight_codes(weight)
    layer = GroupedConvolution("d", convolution_geometry((1, 1, 3, 3), (1, 1), (0,) * 4, (1, 1)), 4, encoded, 1.0, None)
    worst = layer(1e9 * encoded.codes.sign().float().view(1, 4, 3, 3)) / layer.scale
    assert round(float(worst.max())) == layer.bound


def test_products_are_exact_whole_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 5, 40, generator=generator), torch.randn(2, 40, 7, generator=generator)
    leaf = Product("p", (float(left.abs().max()), float(right.abs().max())), 40)
    a, b = (
        nearest_codes(left, leaf.left_scale, WIDE_CODE).long(),
        nearest_codes(right, leaf.right_scale, WIDE_CODE).long(),
    )
    whole = a @ b
    assert whole.abs().max() <= leaf.bound
    assert torch.equal(leaf(left, right), (whole.double() * (leaf.left_scale.double() * leaf.right_scale)).float())
    assert torch.allclose(leaf(left, right), left @ right, atol=2e-3)
    with pytest.raises(InvalidConfig, match="'p' sums 8389632 products"):
        Product("p", (1.0, 1.0), 2**23 + 1024)


def test_a_table_is_its_function_and_level_beyond_the_calibrated_range() -> None:
    leaf = Lookup(nn.GELU(), peak=4.0)
    x = torch.linspace(-4, 4, 1001)
    assert (leaf(x) - F.gelu(x)).abs().max() < 1e-4
    assert leaf(torch.tensor([100.0, torch.inf])).tolist() == [leaf(torch.tensor([4.0])).item()] * 2
    assert leaf(torch.tensor([torch.nan])).item() == 0.0
