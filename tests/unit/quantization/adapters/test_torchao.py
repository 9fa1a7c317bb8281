"""torchao's tensors: what it dequantises to, its own bytes back, and flips that it sees."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded
from holdfast.quantization.adapters.torchao_tensors import (
    read_torchao,
    torchao_layout,
    torchao_memory,
    write_torchao,
)


@pytest.fixture(scope="module")
def torchao() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchao.quantization", reason="torchao is the peer")


def weight(torchao: Any, kind: str, dtype: torch.dtype) -> Tensor:
    """One linear layer quantised by torchao itself."""
    from torchao.quantization.granularity import PerAxis, PerGroup, PerTensor

    config = {
        "rows": lambda: torchao.Int8WeightOnlyConfig(),
        "tensor": lambda: torchao.Int8WeightOnlyConfig(granularity=PerTensor()),
        "int4 groups": lambda: torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)),
        "int3 rows": lambda: torchao.IntxWeightOnlyConfig(weight_dtype=torch.int3, granularity=PerAxis(0)),
    }[kind]()
    model = nn.Sequential(nn.Linear(96, 24, bias=False)).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(24, 96, generator=torch.Generator().manual_seed(0)))
    torchao.quantize_(model, config)
    return model[0].weight


KINDS = ["rows", "tensor", "int4 groups", "int3 rows"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_what_torchao_dequantises_to(kind: str, dtype: torch.dtype, torchao: Any) -> None:
    tensor = weight(torchao, kind, dtype)
    layout, encoded = read_torchao(tensor)
    assert (layout.scheme, layout.shape) == ("torchao", (24, 96))
    assert bits.bit_equal(layout.format.decode(encoded).to(dtype), tensor.dequantize())


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_and_zero_point_means_what_torchao_says(kind: str, torchao: Any) -> None:
    tensor = weight(torchao, kind, torch.float32)
    layout, encoded = read_torchao(tensor)
    generator = torch.Generator().manual_seed(1)
    qparams = {
        key: torch.randint(-128, 128, value.shape, generator=generator).to(value.dtype)
        for key, value in encoded.qparams.items()
    }
    codes = torch.randint(-128, 128, (24, 96), generator=generator).to(torch.int8)
    extreme = write_torchao(tensor, Encoded(codes, qparams))
    assert type(extreme) is type(tensor)
    decoded = layout.format.decode(Encoded(codes, qparams))
    assert torch.equal(decoded, extreme.dequantize())
    _, again = read_torchao(extreme)
    assert torch.equal(again.codes, codes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flip_in_the_memory_of_a_tensor_is_a_flip_of_the_codes(kind: str, torchao: Any) -> None:
    tensor = weight(torchao, kind, torch.float32)
    layout, before = read_torchao(tensor)
    values, memory = tensor.dequantize(), torchao_memory(tensor)
    for part in layout.parts.values():
        element, mask = torch.tensor([part.field.numel - 1]), torch.tensor([0b10])
        part.field.xor_(memory[part.field.tensor], element, mask)
    _, after = read_torchao(tensor)
    assert int(after.codes.view(-1)[-1]) == int(before.codes.view(-1)[-1]) ^ 2
    assert bits.bit_equal(layout.format.decode(after), tensor.dequantize())
    assert not torch.equal(tensor.dequantize(), values)


def test_int4_tensors_have_two_codes_in_a_byte(torchao: Any) -> None:
    """No kernel of torchao dequantises these on a CPU; the formula is that of its quantiser, value by value."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (6, 64), generator=generator)
    qdata = ((codes[:, ::2] & 15) | ((codes[:, 1::2] & 15) << 4)).to(torch.uint8).view(torch.int8)
    scale, zero = torch.rand(2, 6, generator=generator).bfloat16(), torch.randn(2, 6, generator=generator).bfloat16()
    tensor = torchao.Int4Tensor(qdata, scale, zero, [1, 32], torch.Size([6, 64]))
    layout, encoded = read_torchao(tensor)
    assert torch.equal(encoded.codes, codes.to(torch.int8))
    each = [item.T.float().repeat_interleave(32, 1) for item in (scale, zero)]
    assert torch.equal(layout.format.decode(encoded), codes * each[0] + each[1])
    assert torch.equal(write_torchao(tensor, encoded).qdata, qdata)


def test_what_is_no_plain_tensor_is_refused(torchao: Any) -> None:
    with pytest.raises(UnsupportedFormat, match=r"torch\.Tensor"):
        torchao_layout(torch.ones(2, 2))
    from torchao.quantization import Float8Tensor

    floats = Float8Tensor(torch.ones(2, 4, dtype=torch.float8_e4m3fn), torch.ones(2, 1), block_size=[1, 4])
    with pytest.raises(UnsupportedFormat, match="Float8Tensor"):
        torchao_layout(floats)
    tensor = weight(torchao, "rows", torch.float32)
    _, encoded = read_torchao(tensor)
    with pytest.raises(InvalidConfig, match="has shape"):
        write_torchao(tensor, Encoded(encoded.codes[:1], encoded.qparams))
