from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import UnsupportedFormat
from holdfast.hardening.guards.checksum_conv import ConvCheck, is_checkable
from holdfast.hardening.guards.checksum_product import AttentionCheck, ProductCheck
from holdfast.hardening.guards.checksum_reference import patches, wrong_rows
from holdfast.hardening.guards.checksum_sums import Sums, random_signs
from holdfast.seeds import derive

CHANCE = 1e-12
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAYERS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "bias": False},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 1, "groups": 3},
    {"kernel_size": 5, "padding": 4, "stride": 3},
]


def conv(options: dict[str, Any], dtype: torch.dtype) -> tuple[nn.Conv2d, Tensor]:
    draw = derive(0, "conv").torch()
    layer = nn.Conv2d(6, 9, **options)
    for tensor in layer.parameters():
        tensor.data = torch.randn(tensor.shape, generator=draw) / 5
    return layer.to(dtype).requires_grad_(False), torch.randn(3, 6, 11, 8, generator=draw).relu().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_a_convolution_is_checked_line_by_line(options: dict[str, Any], dtype: torch.dtype) -> None:
    layer, x = conv(options, dtype)
    sums = Sums.of(layer.weight, layer.bias, layer.groups)
    check, clean = ConvCheck(layer, sums, CHANCE), layer(x)
    assert check.wrong(x, clean).tolist() == []
    lines = clean.shape[2]
    for sample, line in [(0, 0), (2, lines - 1), (1, lines // 2)]:
        for value in (20.0, torch.nan, torch.inf, torch.finfo(dtype).max):
            y = clean.clone()
            y[sample, 4, line, 1] = value
            assert check.wrong(x, y).tolist() == [sample * lines + line]
    assert len(check.wrong(x, layer(x.roll(1, 3)))) > 0


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_a_line_is_the_sum_of_what_im2col_multiplies(options: dict[str, Any]) -> None:
    """The line's checksum equals signed sums of the rows of the matrix product that a convolution is."""
    layer, x = conv(options, torch.float64)
    if isinstance(layer.padding, str):
        layer.padding = (2, 2)
    sums, y = Sums.of(layer.weight, layer.bias, layer.groups), layer(x)
    check = ConvCheck(layer, sums, CHANCE)
    windows = patches(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    column, across = sums.plain[:, :-1].reshape(-1), random_signs(y.shape[3], "columns")
    expected = (windows @ column).view(len(x), *y.shape[2:]) @ across
    assert torch.allclose(check._lines(x, column.view(6, *layer.kernel_size), across, y.shape[2]), expected)


def test_a_changed_kernel_is_seen_and_restored() -> None:
    for options in LAYERS:
        layer, x = conv(options, torch.float32)
        sums, good = Sums.of(layer.weight, layer.bias, layer.groups), layer.weight.clone()
        check = ConvCheck(layer, sums, CHANCE)
        layer.weight[5, 1, 0, 0] = -3e30
        assert len(check.wrong(x, layer(x))) > 0
        found = sums.restored(layer.weight, layer.bias)
        assert found is not None
        assert torch.equal(found.weight, good)


def test_sequences_have_one_line_and_other_layers_none() -> None:
    layer, x = nn.Conv1d(4, 8, 3, padding=1, dilation=2).requires_grad_(False), torch.randn(5, 4, 20)
    check, y = ConvCheck(layer, Sums.of(layer.weight, layer.bias), CHANCE), layer(x)
    assert check.wrong(x, y).tolist() == []
    y[3, 2, 7] += 1
    assert check.wrong(x, y).tolist() == [3]
    assert not is_checkable(nn.Conv2d(3, 4, 3, padding_mode="reflect"))
    assert not is_checkable(nn.ConvTranspose2d(3, 4, 3))
    with pytest.raises(UnsupportedFormat, match="no checksum"):
        ConvCheck(nn.Conv3d(3, 4, 3), check.sums, CHANCE)


def test_channels_last_and_many_clean_convolutions() -> None:
    layer, _ = conv(LAYERS[0], torch.float32)
    layer = layer.to(memory_format=torch.channels_last)
    check = ConvCheck(layer, Sums.of(layer.weight, layer.bias), CHANCE)
    draw = derive(3, "inputs").torch()
    for _ in range(200):
        x = torch.randn(2, 6, 11, 8, generator=draw).to(memory_format=torch.channels_last) * 50
        assert check.wrong(x, layer(x)).tolist() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_of_computed_matrices_agrees_with_the_reference(dtype: torch.dtype) -> None:
    draw = derive(0, "product").torch()
    a, b = (torch.randn(2, 3, *shape, generator=draw).to(dtype) for shape in ((17, 24), (24, 19)))
    y, check = a @ b, ProductCheck(CHANCE)
    assert check.wrong(a, b, y).tolist() == []
    for change in (0.01, 0.1, 1.0, 30.0):
        wrong = y.clone()
        wrong[1, 2, 6, 3] += change
        expected = wrong_rows(a[1, 2], wrong[1, 2], b[1, 2].T, None, random_signs(19), CHANCE)
        assert check.wrong(a, b, wrong).tolist() == [5 * 17 + row for row in expected]
    y[0, 1, 4] = torch.nan
    assert check.wrong(a, b, y).tolist() == [17 + 4]


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_checked_row_by_row(dtype: torch.dtype, causal: bool) -> None:
    draw = derive(0, "attention").torch()
    check = AttentionCheck(CHANCE)
    for sharpness in (0.1, 1.0, 4.0):
        q, k, v = (torch.randn(2, 4, 33, 16, generator=draw).mul(sharpness).to(dtype) for _ in range(3))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        assert check.wrong(q, k, v, y, {"is_causal": causal}).tolist() == []
        for value in (10.0 * float(v.abs().max()), torch.nan, torch.inf):
            wrong = y.clone()
            wrong[1, 2, 20, 5] = value
            assert check.wrong(q, k, v, wrong, {"is_causal": causal}).tolist() == [6 * 33 + 20]
    mask = torch.randn(33, 33, generator=draw).to(dtype)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5)
    assert check.wrong(q, k, v, y, {"attn_mask": mask, "scale": 0.5}).tolist() == []
    with pytest.raises(UnsupportedFormat, match="dropout"):
        check.wrong(q, k, v, y, {"dropout_p": 0.1})


def test_keys_of_one_sample_decide_nothing_about_another() -> None:
    """A wild key makes its own rows wrong, and neither blinds the check of the others nor alarms them."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(3, 2, 7, 8, generator=generator) for _ in range(3))
    for value in (torch.inf, torch.nan, 1e15):
        k[1, 0, 4, 2] = value
        y = F.scaled_dot_product_attention(q, k, v)
        y[2, 1, 3, 5] += 0.01
        rows = AttentionCheck(CHANCE).wrong(q, k, v, y, {}).tolist()
        assert [row for row in rows if not 14 <= row < 28] == [28 + 7 + 3]
