"""Sub-byte packing against Python integers."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.numerics.packing import pack, unpack


def test_least_significant_first() -> None:
    assert pack(torch.tensor([0x1, 0xF, 0x3], dtype=torch.uint8), 4).tolist() == [0xF1, 0x03]
    assert pack(torch.tensor([3, 0, 1, 2, 1], dtype=torch.uint8), 2).tolist() == [0b10010011, 1]
    assert pack(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=torch.uint8), 1).tolist() == [0x81, 1]


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 33])
def test_round_trip(width: int, count: int) -> None:
    codes = (torch.arange(count) * 7 % 2**width).to(torch.uint8)
    packed = pack(codes.reshape(-1, 1), width)
    number = sum(int(code) << (width * place) for place, code in enumerate(codes))
    assert bytes(packed.tolist()) == number.to_bytes(-(-count * width // 8), "little")
    assert torch.equal(unpack(packed, width, count), codes)


def test_bad_arguments() -> None:
    with pytest.raises(InvalidConfig, match="1, 2, 4 and 8"):
        pack(torch.zeros(1, dtype=torch.uint8), 3)
    with pytest.raises(InvalidConfig, match="below 4"):
        pack(torch.tensor([4], dtype=torch.uint8), 2)
    with pytest.raises(InvalidConfig, match="uint8"):
        pack(torch.tensor([1]), 2)
    with pytest.raises(InvalidConfig, match="exactly 9 codes"):
        unpack(torch.zeros(4, dtype=torch.uint8), 4, 9)
