"""Sub-byte packing against Python integers: one long number, least significant code first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics import bits as bit_ops
from holdfast.numerics.formats import formats
from holdfast.numerics.packing import addresses, byte_masks, pack, packed_size, unpack
from holdfast.seeds import derive

WIDTHS = range(1, 9)


def some_codes(width: int, count: int) -> Tensor:
    generator = derive(0, "packing", width, count).torch()
    return torch.randint(0, 2**width, (count,), generator=generator, dtype=torch.uint8)


def as_number(codes: Tensor, width: int) -> int:
    return sum((int(code) % 2**width) << (width * place) for place, code in enumerate(codes))


def test_least_significant_first() -> None:
    assert pack(torch.tensor([0x1, 0xF, 0x3], dtype=torch.uint8), 4).tolist() == [0xF1, 0x03]
    assert pack(torch.tensor([3, 0, 1, 2, 1], dtype=torch.uint8), 2).tolist() == [0b10010011, 1]
    assert pack(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=torch.uint8), 1).tolist() == [0x81, 1]
    assert pack(torch.tensor([0b101, 0b011, 0b111], dtype=torch.uint8), 3).tolist() == [0b11011101, 0b1]
    assert pack(torch.tensor([-1, -8, 7], dtype=torch.int8), 4).tolist() == [0x8F, 0x07]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 33, 1000])
def test_round_trip(width: int, count: int) -> None:
    codes = some_codes(width, count)
    packed = pack(codes.reshape(-1, 1), width)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_size(count, width)
    assert bytes(packed.tolist()) == as_number(codes, width).to_bytes(-(-count * width // 8), "little")
    assert torch.equal(unpack(packed, width, count), codes)


@pytest.mark.parametrize("width", WIDTHS)
def test_signed_codes_come_back_signed(width: int) -> None:
    codes = torch.arange(-(2 ** (width - 1)), 2 ** (width - 1)).to(torch.int8)
    packed = pack(codes, width)
    assert bytes(packed.tolist()) == as_number(codes, width).to_bytes(len(packed), "little")
    assert torch.equal(unpack(packed, width, len(codes), signed=True), codes)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_bit_lies_at_its_address(width: int) -> None:
    codes = some_codes(width, 17)
    packed = pack(codes, width)
    for index in range(17):
        for bit in range(width):
            byte, place = addresses(torch.tensor([index]), torch.tensor([bit]), width)
            faulty = packed.clone()
            faulty[byte] ^= 1 << int(place)
            expected = codes.clone()
            expected[index] ^= 1 << bit
            assert torch.equal(unpack(faulty, width, 17), expected)


def test_addresses_beyond_two_to_the_thirty_third() -> None:
    byte, place = addresses(torch.tensor([2**40 + 3]), torch.tensor([2]), 5)
    assert 8 * int(byte) + int(place) == 5 * (2**40 + 3) + 2


@pytest.mark.parametrize("width", WIDTHS)
def test_flips_of_codes_are_flips_of_bytes(width: int) -> None:
    codes, generator = some_codes(width, 500), derive(1, "packing", width).torch()
    index = torch.randperm(500, generator=generator)[:300]
    mask = torch.randint(0, 2**width, (300,), generator=generator)
    packed = pack(codes, width)
    byte, change = byte_masks(index, mask, width)
    assert torch.equal(byte, byte.unique())
    bit_ops.xor_(packed, byte, change)
    codes[index] ^= mask.to(torch.uint8)
    assert torch.equal(unpack(packed, width, 500), codes)


def test_no_flips() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert [part.tolist() for part in byte_masks(nothing, nothing, 3)] == [[], []]
    assert byte_masks(torch.tensor([4]), torch.tensor([0b1000]), 3)[0].tolist() == []  # a bit that no code has


@pytest.mark.parametrize(
    "name", ["int4", "int8", "rquant2", "rquant3", "uint5", "mxfp4", "mxfp6-e3m2", "nf4", "rquant7"]
)
def test_codes_of_formats_survive_packing(name: str) -> None:
    chosen = formats.build(name)
    codes = chosen.encode(torch.randn(9, 13, generator=derive(2, "packing").torch())).codes
    packed = pack(codes, chosen.bits)
    assert len(packed) == -(-9 * 13 * chosen.bits // 8)
    again = unpack(packed, chosen.bits, 9 * 13, signed=codes.dtype == torch.int8)
    assert torch.equal(again.view(9, 13), codes)


def test_bad_arguments() -> None:
    for width in (0, 9):
        with pytest.raises(InvalidConfig, match="1 to 8 bits"):
            pack(torch.zeros(1, dtype=torch.uint8), width)
        with pytest.raises(InvalidConfig, match="1 to 8 bits"):
            unpack(torch.zeros(1, dtype=torch.uint8), width, 1)
    with pytest.raises(InvalidConfig, match="from 0 to below 4"):
        pack(torch.tensor([4], dtype=torch.uint8), 2)
    with pytest.raises(InvalidConfig, match="from -8 to below 8"):
        pack(torch.tensor([8], dtype=torch.int8), 4)
    with pytest.raises(InvalidConfig, match="uint8 or int8"):
        pack(torch.tensor([1]), 2)
    with pytest.raises(InvalidConfig, match="exactly 9 codes"):
        unpack(torch.zeros(4, dtype=torch.uint8), 4, 9)
    with pytest.raises(InvalidConfig, match="exactly 2 codes"):
        unpack(torch.zeros(1, dtype=torch.int8), 4, 2)
    with pytest.raises(InvalidConfig, match=r"bits 0\.\.2"):
        addresses(torch.tensor([0]), torch.tensor([3]), 3)
