"""Two-level blocks against arithmetic on Python numbers; their stored layouts are tested with the GGUF adapter."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats import Encoded, formats
from holdfast.numerics.formats.superblock import Superblock
from holdfast.testing import check_format

K_QUANTS = {
    "Q2_K": Superblock(bits=2, size=16, scale_bits=4),
    "Q3_K": Superblock(bits=3, size=16, scales="middle", low=False),
    "Q4_K": Superblock(bits=4, size=32),
    "Q5_K": Superblock(bits=5, size=32),
    "Q6_K": Superblock(bits=6, size=16, scale_bits=8, scales="signed", low=False),
}


@pytest.mark.parametrize("format", K_QUANTS.values(), ids=K_QUANTS)
def test_the_contract_holds(format: Superblock) -> None:
    check_format(format)


@pytest.mark.parametrize("format", K_QUANTS.values(), ids=K_QUANTS)
def test_each_level_has_its_place(format: Superblock) -> None:
    """Two superblocks in each of two rows; every value from its own group and superblock."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**format.bits, (2, 512), generator=generator).to(torch.uint8)
    groups, dtype = 512 // format.size, torch.int8 if format.scales == "signed" else torch.uint8
    qparams = {
        "super_scale": torch.tensor([[0.5, -0.25], [2.0, 8.0]], dtype=torch.float16),
        "scale": torch.randint(0, 2**format.scale_bits, (2, groups), generator=generator).to(dtype),
    }
    if format.low:
        qparams["super_low"] = torch.tensor([[1.0, 2.0], [0.125, -4.0]], dtype=torch.float16)
        qparams["low"] = torch.randint(0, 2**format.scale_bits, (2, groups), generator=generator).to(dtype)
    values = format.decode(Encoded(codes, qparams))
    for row, column in [(0, 0), (0, 15), (0, 16), (0, 31), (0, 32), (0, 255), (0, 256), (1, 0), (1, 300), (1, 511)]:
        scale = int(qparams["scale"][row, column // format.size]) - 32 * (format.scales == "middle")
        code = int(codes[row, column]) - (0 if format.low else 2 ** (format.bits - 1))
        expected = code * float(qparams["super_scale"][row, column // 256]) * scale
        if format.low:
            low = int(qparams["low"][row, column // format.size])
            expected -= float(qparams["super_low"][row, column // 256]) * low
        assert float(values[row, column]) == expected


@pytest.mark.parametrize(
    ("name", "error"), [("Q2_K", 0.4), ("Q3_K", 0.25), ("Q4_K", 0.1), ("Q5_K", 0.05), ("Q6_K", 0.03)]
)
def test_more_bits_lose_less(name: str, error: float) -> None:
    x = torch.randn(8, 600, generator=torch.Generator().manual_seed(0)) * 0.02
    decoded = K_QUANTS[name].decode(K_QUANTS[name].encode(x))
    assert (decoded - x).norm() / x.norm() < error


def test_bits_above_the_width_of_a_scale_mean_nothing() -> None:
    x = torch.linspace(-1, 1, 64).view(1, 64)
    encoded = K_QUANTS["Q4_K"].encode(x)
    damaged = dict(encoded.qparams) | {"scale": encoded.qparams["scale"] | 0x40}
    assert torch.equal(K_QUANTS["Q4_K"].decode(Encoded(encoded.codes, damaged)), K_QUANTS["Q4_K"].decode(encoded))


@pytest.mark.parametrize("wrong", [{"bits": 7}, {"bits": 1}, {"size": 8}, {"scale_bits": 3}, {"scales": "signed"}])
def test_impossible_combinations_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        Superblock(**wrong)  # type: ignore[arg-type]


def test_a_range_beyond_float16_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="fp16"):
        formats.build("superblock").encode(torch.tensor([1e9, -1e9]))
