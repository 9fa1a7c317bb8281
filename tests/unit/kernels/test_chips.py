"""Chips drawn on the device are the chips of the reference: every seed, rate, width, address and window."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig, MissingDevice
from holdfast.execution import Population
from holdfast.faults import BitErrors
from holdfast.faults.bit_errors import xor_chip_
from holdfast.faults.chip import Chip
from holdfast.faults.on_device import errors_on_device, xor_chip_on_device_
from holdfast.models.site import Site
from holdfast.numerics import bits, packing
from holdfast.seeds import Seed, derive


def reference(size: int, rate: float, seed: Seed, first: int) -> tuple[np.ndarray, int]:
    octets = np.zeros(size, np.uint8)
    return octets, xor_chip_(octets, rate, seed, first=first)


FAST = [(0.01, 3000, 1), (1e-3, 20_000, 12_345), (1e-6, 4 * 10**6, 2**30 + 1), (1e-9, 10**7, 2**35)]
SLOW = [(0.9, 200, 0), (0.3, 1000, 7), (2**-8, 5000, 10**6), (2**-9, 20_000, 16384 * 8 - 5), (1e-5, 10**6, 3)]
HEAVY = [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]


@pytest.mark.parametrize(("rate", "size", "first"), FAST + HEAVY)
def test_the_same_bits_flip(resident: torch.device, rate: float, size: int, first: int) -> None:
    for number in range(2):
        seed = derive(number, "chip")
        expected, count = reference(size, rate, seed, first)
        found = torch.zeros(size, dtype=torch.uint8, device=resident)
        assert xor_chip_on_device_(found, rate, seed, first=first) == count
        assert np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("listed", [False, True], ids=["map", "list"])
def test_as_many_counters_at_once_as_on_a_gpu(
    resident: torch.device, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast._kernels import chips

    monkeypatch.setattr(chips, "_COUNTERS", 32)  # a block takes five rounds of them
    chip, size = Chip(2**-9 if not listed else 3e-4, derive(11, "rounds")), 9001 if listed else 3001
    found = torch.zeros(size, dtype=torch.uint8, device=resident)
    count = xor_chip_on_device_(found, chip.rate, chip.seed, first=2**20 - 7)
    expected = reference(size, chip.rate, chip.seed, 2**20 - 7)
    assert (count, found.cpu().tolist()) == (expected[1], expected[0].tolist())


def test_ties_are_settled_by_the_word_of_their_event(resident: torch.device) -> None:
    chip, stop = Chip(1.4 * 2**-20, derive(12, "ties")), 2**31
    assert chip._bands()[-1].address_bits == 30  # which leaves two bits of a mark: a quarter of the events are ties
    expected = np.concatenate([found + offset for offset, found in chip.lists(0, stop)])
    found = errors_on_device(chip, 0, stop, torch.zeros(1, dtype=torch.uint8, device=resident))
    assert np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("first", [0, 1, 16])
def test_whole_blocks_of_words_and_what_is_left(resident: torch.device, first: int) -> None:
    from holdfast._kernels.chips import hamming_distance, popcount

    size = 2 * 8192 + 7
    around = torch.zeros(size + 64, dtype=torch.uint8, device=resident)
    memory, seed = around[first : first + size], derive(13, "blocks")
    assert xor_chip_on_device_(memory, 0.3, seed) == popcount(memory) == popcount(around)
    assert np.array_equal(memory.cpu().numpy(), reference(size, 0.3, seed, 0)[0])
    assert hamming_distance(memory, memory.clone().bitwise_not_()) == 8 * size


@pytest.mark.slow
def test_flipping_once_more_restores_the_memory(resident: torch.device) -> None:
    memory = torch.arange(3000, device=resident).to(torch.uint8)
    for rate in (0.02, 0.001):
        seed, before = derive(1, "undo"), memory.clone()
        assert xor_chip_on_device_(memory, rate, seed) > 0
        assert not torch.equal(memory, before)
        xor_chip_on_device_(memory, rate, seed)
        assert torch.equal(memory, before)


@pytest.mark.slow
def test_a_lower_rate_flips_a_subset(resident: torch.device) -> None:
    maps = []
    for rate in (1e-4, 1e-3, 1e-2, 0.1):
        memory = torch.zeros(20_000, dtype=torch.uint8, device=resident)
        xor_chip_on_device_(memory, rate, derive(0, "ladder"))
        maps.append(memory)
    assert all(not (low & ~high).any() for low, high in pairwise(maps))


@pytest.mark.slow
def test_parts_of_a_memory_meet_the_errors_of_the_whole(resident: torch.device) -> None:
    whole = torch.zeros(5001, dtype=torch.uint8, device=resident)
    parts = torch.zeros(5001, dtype=torch.uint8, device=resident)
    for rate in (0.01, 0.001):
        xor_chip_on_device_(whole, rate, derive(2, "parts"))
        for first, stop in ((0, 17), (17, 2500), (2500, 5001)):
            xor_chip_on_device_(parts[first:stop], rate, derive(2, "parts"), first=first)
    assert torch.equal(whole, parts)


@pytest.mark.slow
def test_a_map_larger_than_a_window_is_drawn_window_by_window(
    resident: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast._kernels import chips

    monkeypatch.setattr(chips, "WINDOW", 8192)
    monkeypatch.setattr(chips, "_SLAB", 4096 + 24)
    monkeypatch.setattr(chips, "_WORDS", 64)  # of which a window has four blocks
    found = torch.zeros(2500, dtype=torch.uint8, device=resident)
    xor_chip_on_device_(found, 0.05, derive(5, "windows"), first=3)
    assert np.array_equal(found.cpu().numpy(), reference(2500, 0.05, derive(5, "windows"), 3)[0])


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("rate", [0.05, 0.001])
def test_packed_codes_meet_the_errors_of_their_site(resident: torch.device, width: int, rate: float) -> None:
    from holdfast._kernels.chips import flip_listed_

    count, seed = 9001, derive(9, "site", "codes")
    generator = derive(9, "codes").torch()
    codes = torch.randint(0, 2**width, (count,), dtype=torch.uint8, generator=generator)
    expected = codes.clone()
    found = np.concatenate([np.empty(0, np.int64), *(a + o for o, a in Chip(rate, seed).lists(0, count * width))])
    for address in found.tolist():
        expected[address // width] ^= 1 << address % width
    packed = packing.pack(codes, width).to(resident)
    addresses = errors_on_device(Chip(rate, seed), 0, count * width, packed)
    assert addresses.tolist() == found.tolist()
    flip_listed_(packed, addresses)
    assert torch.equal(packing.unpack(packed.cpu(), width, count), expected)
    loose = codes.to(resident)
    flip_listed_(loose, addresses, bits=width)
    assert torch.equal(loose.cpu(), expected)


def test_the_list_is_what_the_fault_draws_for_a_site(resident: torch.device) -> None:
    site = Site("weights", "layer.weight", (40, 30), "rquant8", 8)
    (drawn,) = BitErrors(rate=0.01).flips(Population((site,)), derive(4, "model"))
    codes = torch.zeros(site.population // 8, dtype=torch.uint8, device=resident)
    xor_chip_on_device_(codes, 0.01, derive(derive(4, "model"), site.address))
    index = codes.cpu().nonzero().flatten()
    assert torch.equal(index, drawn.index)
    assert torch.equal(codes.cpu()[index].long(), drawn.mask)


def test_rates_of_none_and_all(resident: torch.device) -> None:
    memory = torch.arange(9, device=resident).to(torch.uint8)
    assert xor_chip_on_device_(memory, 0, derive(0, "a")) == 0
    assert xor_chip_on_device_(memory, 1, derive(0, "a")) == 72
    assert memory.tolist() == [255 - value for value in range(9)]
    assert errors_on_device(Chip(1, derive(0, "a")), 3, 6, memory).tolist() == [3, 4, 5]
    with pytest.raises(InvalidConfig):
        xor_chip_on_device_(memory, 1.5, derive(0, "a"))


def test_flips_outside_the_memory_are_refused(resident: torch.device) -> None:
    from holdfast._kernels.chips import flip_listed_

    memory = torch.zeros(8, dtype=torch.uint8, device=resident)
    for place in (-1, 64):
        with pytest.raises(InvalidConfig, match="outside"):
            flip_listed_(memory, torch.tensor([place], device=resident))
    assert not memory.any()


def test_without_a_device_the_reason_is_said() -> None:
    with pytest.raises(MissingDevice, match="cpu is no CUDA device"):
        xor_chip_on_device_(torch.zeros(3, dtype=torch.uint8), 0.1, derive(0, "a"))


def test_a_kernel_that_does_not_compile_is_a_reason(resident: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.errors import TritonError

    from holdfast._kernels import chips

    def fails(*_: object, **__: object) -> int:
        raise TritonError("out of resource: registers")

    monkeypatch.setattr(chips, "flip_", fails)
    memory = torch.zeros(9, dtype=torch.uint8, device=resident)
    for _ in range(2):
        with pytest.raises(MissingDevice, match=r"does not compile for .*: out of resource"):
            xor_chip_on_device_(memory, 0.1, derive(0, "a"))
    assert not memory.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.int64])
def test_bits_are_counted_where_they_lie(resident: torch.device, dtype: torch.dtype) -> None:
    generator = derive(3, "count").torch()
    left, right = (torch.randint(0, 100, (1111,), generator=generator).to(dtype) for _ in range(2))
    from holdfast._kernels.chips import hamming_distance, popcount

    assert popcount(left.to(resident)) == int(bits.popcount(left).sum())
    distance = int(bits.popcount(bits.int_view(left) ^ bits.int_view(right)).sum())
    assert hamming_distance(left.to(resident), right.to(resident)) == distance > 0
    assert bits.hamming_distance(left.to(resident), right.to(resident)) == distance
    assert popcount(left[:0].to(resident)) == 0
    with pytest.raises(InvalidConfig, match="cannot compare"):
        hamming_distance(left.to(resident), right[1:].to(resident))


class Reader:
    """A population of one site whose codes lie on the device."""

    def __init__(self, site: Site, device: torch.device) -> None:
        self.codes = torch.zeros(site.numel, dtype=torch.uint8, device=device)
        self.population = Population((site,), lambda _: self.codes)


SITES = [Site("weights", "layer.weight", (90, 30), "rquant8", 8), Site("weights", "layer.weight", (401,), "rquant3", 3)]


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.format)
@pytest.mark.parametrize("rate", [0.0, 0.02, pytest.param(1e-3, marks=pytest.mark.slow), 1.0])
def test_flips_drawn_where_codes_lie_are_the_fault_s(resident: torch.device, rate: float, site: Site) -> None:
    law, seed, there = BitErrors(rate=rate), derive(4, "model"), Reader(site, resident)
    expected = law.flips(Population((site,)), seed)
    found = law.flips_where_stored(there.population, seed)
    assert len(found) == len(expected) == int(rate > 0)
    for one, other in zip(found, expected, strict=True):
        assert one.index.device.type == resident.type
        assert torch.equal(one.index.cpu(), other.index)
        assert torch.equal(one.mask.cpu(), other.mask)


def test_flips_of_codes_on_a_cpu_are_drawn_there() -> None:
    there = Reader(SITES[0], torch.device("cpu"))
    (one,) = BitErrors(rate=0.01).flips_where_stored(there.population, derive(4, "model"))
    (other,) = BitErrors(rate=0.01).flips(there.population, derive(4, "model"))
    assert torch.equal(one.index, other.index)
