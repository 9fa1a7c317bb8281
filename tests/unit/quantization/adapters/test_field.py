"""One table gives addresses, their inverse, unpacking, packing and flips: checked bit by bit against plain integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.quantization.adapters.field import Field, plain, sequence

NIBBLES = tuple(
    tuple(16 + 8 * (lane % 16) + 4 * (lane // 16) + bit for bit in range(4)) for lane in range(32)
)  # two bytes of something else first, then low halves, then high halves
SPLIT = tuple((8 * lane, 8 * lane + 1, 64 + lane) for lane in range(8))  # the third bit lies elsewhere
AWKWARD = {
    "3 bits over three words a row apart": Field(
        tensor="t", rows=5, columns=64, table=sequence(3, 32), dtype=torch.uint8,
        block=3 * 5 * 32, other=32, word=5 * 32, word_bits=32,
    ),
    "rows packed, three words side by side": Field(
        tensor="t", rows=32, columns=3, table=sequence(3, 32), dtype=torch.uint8, packed=0, block=96, other=96,
    ),
    "shuffled nibbles": Field(
        tensor="t", rows=16, columns=3, dtype=torch.uint8, packed=0, block=32, other=64,
        table=tuple(tuple(4 * (0, 4, 1, 5, 2, 6, 3, 7)[lane] + bit for bit in range(4)) for lane in range(8)),
    ),
    "blocks with a header": Field(
        tensor="t", rows=2, columns=64, table=NIBBLES, dtype=torch.uint8, block=144, other=288,
    ),
    "a bit of its own": Field(
        tensor="t", rows=3, columns=16, table=SPLIT, dtype=torch.uint8, block=80, other=176, start=16,
    ),
    "an incomplete last block": Field(
        tensor="t", rows=3, columns=11, table=sequence(4, 8), dtype=torch.uint8, block=32, other=64,
    ),
    "signed nibbles": Field(tensor="t", rows=3, columns=4, table=sequence(4, 2), dtype=torch.int8, block=8, other=16),
    "transposed halves": plain("t", torch.float16, 4, 3, transposed=True),
    "plain words": plain("t", torch.int32, 2, 3),
}  # fmt: skip


def memory(field: Field) -> np.ndarray:
    everywhere = torch.arange(field.numel).repeat_interleave(field.bits), torch.arange(field.bits).repeat(field.numel)
    length = int(field.offset(*everywhere).max()) // 8 + 9
    return np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8)


def as_bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[values.dtype.itemsize]).long()


@pytest.mark.parametrize("field", AWKWARD.values(), ids=AWKWARD)
def test_unpacking_reads_the_bits_that_the_addresses_name(field: Field) -> None:
    octets = memory(field)
    values = as_bits(field.unpack(octets)).view(-1)
    for element in range(field.numel):
        for bit in range(field.bits):
            offset = int(field.offset(torch.tensor(element), torch.tensor(bit)))
            assert (octets[offset // 8] >> (offset % 8)) & 1 == (int(values[element]) >> bit) & 1


@pytest.mark.parametrize("field", AWKWARD.values(), ids=AWKWARD)
def test_every_bit_of_the_memory_is_located_or_refused(field: Field) -> None:
    octets = memory(field)
    element, bit = field.locate(torch.arange(8 * len(octets)))
    mine = element >= 0
    assert int(mine.sum()) == field.numel * field.bits
    assert torch.equal(field.offset(element[mine], bit[mine]), torch.arange(8 * len(octets))[mine])
    assert (bit[~mine] == -1).all()
    assert (field.locate(torch.tensor([-1, -640, 2**50]))[0] == -1).all()


@pytest.mark.parametrize("field", AWKWARD.values(), ids=AWKWARD)
def test_packing_writes_its_own_bits_and_no_others(field: Field) -> None:
    octets = memory(field)
    values = field.unpack(octets)
    again = octets.copy()
    field.pack_(again, values)
    assert np.array_equal(again, octets)
    blank, full = np.zeros_like(octets), np.full_like(octets, 255)
    field.pack_(blank, values)
    field.pack_(full, values)
    assert torch.equal(as_bits(field.unpack(blank)), as_bits(values))
    mine = np.unpackbits(blank ^ full ^ 255, bitorder="little")
    assert np.array_equal(mine.astype(bool), (field.locate(torch.arange(8 * len(octets)))[0] >= 0).numpy())


@pytest.mark.parametrize("field", AWKWARD.values(), ids=AWKWARD)
def test_flips_in_the_memory_are_flips_of_the_elements(field: Field) -> None:
    octets = memory(field)
    before, original = as_bits(field.unpack(octets)).view(-1), octets.copy()
    element = torch.arange(0, field.numel, 2)
    mask = torch.from_numpy(np.random.default_rng(1).integers(1, 1 << field.bits, len(element)))
    assert torch.equal(field.take(octets, element), before[element] & ((1 << field.bits) - 1))
    field.xor_(octets, element, mask)
    low = (1 << field.bits) - 1
    expected = before & low
    expected[element] ^= mask
    assert torch.equal(as_bits(field.unpack(octets)).view(-1) & low, expected)
    field.xor_(octets, element, mask)
    assert np.array_equal(octets, original)


def test_signed_nibbles_carry_their_sign() -> None:
    octets = np.array([0x7F, 0x80, 0x21, 0x43, 0, 0], dtype=np.uint8)
    assert AWKWARD["signed nibbles"].unpack(octets).tolist() == [[-1, 7, 0, -8], [1, 2, 3, 4], [0, 0, 0, 0]]


def test_what_does_not_fit_is_refused() -> None:
    nibbles, signed = AWKWARD["an incomplete last block"], AWKWARD["signed nibbles"]
    octets = memory(nibbles)
    with pytest.raises(InvalidConfig, match="4 bits"):
        nibbles.pack_(octets, torch.full((3, 11), 16, dtype=torch.uint8))
    with pytest.raises(InvalidConfig, match="4 bits"):
        signed.pack_(octets, torch.full((3, 4), 8, dtype=torch.int8))
    with pytest.raises(InvalidConfig, match="33 values"):
        nibbles.pack_(octets, torch.zeros(3, 10, dtype=torch.uint8))
    with pytest.raises(InvalidConfig, match="reaches byte"):
        nibbles.unpack(octets[:5])
    with pytest.raises(InvalidConfig, match="elements run from 0 to 32"):
        nibbles.offset(torch.tensor(33), torch.tensor(0))
    with pytest.raises(InvalidConfig, match="bits run from 0 to 3"):
        nibbles.xor_(octets, torch.tensor([0]), torch.tensor([16]))


def test_nothing_is_a_field_too() -> None:
    empty = plain("t", torch.float16, 0, 3)
    assert empty.unpack(np.zeros(0, np.uint8)).shape == (0, 3)
    empty.pack_(np.zeros(0, np.uint8), torch.zeros(0, 3, dtype=torch.float16))
