"""Digests made where the bytes lie: those of the ``blake3`` package, whatever the length and the address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from blake3 import blake3
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive

if TYPE_CHECKING:
    from holdfast._kernels.digest import Plan

CHUNK = 1024
# around every boundary: of a word, a block, a chunk, and of trees that are whole and that are not
LENGTHS = [
    0,
    1,
    3,
    4,
    63,
    64,
    65,
    127,
    128,
    1023,
    1024,
    1025,
    2047,
    2048,
    2049,
    3072,
    3073,
    4096,
    5120,
    7169,
    8192,
    8193,
]
LONGER = sorted({size + more for size in (16 << 10, 32 << 10, 48 << 10, 64 << 10) for more in (-1025, -1, 0, 1)})


def some_bytes(count: int, *path: str | int) -> Tensor:
    generator = derive(8, "blake3", *path).torch()
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)


def scattered(lengths: list[int], device: torch.device, *, aligned: bool) -> list[Tensor]:
    """Views of one buffer, at addresses that are all multiples of 16, or at random ones."""
    offsets = torch.randint(0, 40, (len(lengths),), generator=derive(8, "offsets").torch()).tolist()
    buffer = some_bytes(sum(lengths) + 64 * len(lengths) + 64, "scattered").to(device)
    views, place = [], -buffer.data_ptr() % 16
    for length, offset in zip(lengths, offsets, strict=True):
        place += 0 if aligned else offset
        views.append(buffer[place : place + length])
        place += -(-length // 16) * 16 if aligned else length
    return views


def planned(tensors: list[Tensor], lanes: int, *more: tuple[bytes, ...], context: str | None = None) -> Plan:
    """A plan whose programs hash so many chunks at once where that saves the interpreter time.

    A GPU gets as many as ever: a program of thousands in one warp would take its compiler minutes, and fit no chip.
    """
    from holdfast._kernels.digest import LANES, Plan

    return Plan(tuple(tensors), *more, context=context, lanes=lanes if tensors[0].device.type == "cpu" else LANES)


def of_package(tensor: Tensor) -> str:
    return blake3(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def hexes(roots: Tensor) -> list[str]:
    return [bytes(row.tolist()).hex() for row in roots.cpu()]


@pytest.mark.parametrize("aligned", [True, False])
def test_roots_of_less_than_a_chunk_are_those_of_the_package(device: torch.device, aligned: bool) -> None:
    tensors = scattered([size for size in LENGTHS if size < 130], device, aligned=aligned)
    assert hexes(planned(tensors, 32).roots()) == [of_package(item) for item in tensors]


def test_roots_of_a_few_chunks_are_those_of_the_package(device: torch.device) -> None:
    tensors = scattered([1025, 1024, 2100], device, aligned=False)
    assert hexes(planned(tensors, 8).roots()) == [of_package(item) for item in tensors]


@pytest.mark.slow
@pytest.mark.parametrize("aligned", [True, False])
def test_roots_around_every_boundary_are_those_of_the_package(device: torch.device, aligned: bool) -> None:
    tensors = scattered(LENGTHS, device, aligned=aligned)
    assert hexes(planned(tensors, 128).roots()) == [of_package(item) for item in tensors]


@pytest.mark.slow
@pytest.mark.parametrize("aligned", [True, False])
def test_roots_are_those_of_the_package_up_to_64_kib_and_one(device: torch.device, aligned: bool) -> None:
    whole = [count * CHUNK + more for count in range(1, 32) for more in (-1, 0, 1)]
    lengths = [*range(131), *LENGTHS, *whole, *LONGER]
    tensors = scattered(lengths, device, aligned=aligned)
    assert hexes(planned(tensors, 4096).roots()) == [of_package(item) for item in tensors]


@pytest.mark.slow
def test_every_start_within_sixteen_bytes_gives_the_same_root(device: torch.device) -> None:
    data = some_bytes(2500, "starts").to(device)
    buffers = [torch.zeros(2600, dtype=torch.uint8, device=device) for _ in range(16)]
    tensors = []
    for start, buffer in enumerate(buffers):
        first = -buffer.data_ptr() % 16 + start
        buffer[first : first + 2500] = data
        tensors.append(buffer[first : first + 2500])
    assert set(hexes(planned(tensors, 64).roots())) == {of_package(data)}


@pytest.mark.slow
@pytest.mark.parametrize("tile", [8, 16])
def test_trees_of_many_tiles_are_merged_launch_after_launch(
    device: torch.device, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast._kernels import blake3_layout, digest

    monkeypatch.setattr(blake3_layout, "TILE", tile)
    monkeypatch.setattr(digest, "TILE", tile)
    chunks = [1, 3, 8, 9, 17, 65]
    tensors = scattered([count * CHUNK - 7 for count in chunks], device, aligned=False)
    plan = planned(tensors, 256)
    assert hexes(plan.roots()) == [of_package(item) for item in tensors]
    assert len(plan._tables.levels) == (3 if tile == 8 else 2)


@pytest.mark.slow
def test_a_prefix_and_a_context_are_hashed_with_the_tensor(device: torch.device) -> None:
    tensors = scattered([0, 10, 1000, 1024, 3000, 5000], device, aligned=True)
    prefixes = (b"", b"a", b"b" * 30, b"c" * 64, b"d" * 1024, b"e" * 1500)
    found = planned(tensors, 32, prefixes, context="holdfast 2026 tensor v1").roots()
    assert hexes(found) == [
        blake3(prefix + item.cpu().numpy().tobytes(), derive_key_context="holdfast 2026 tensor v1").hexdigest()
        for prefix, item in zip(prefixes, tensors, strict=True)
    ]


def test_a_plan_with_prefixes_sees_what_changed_since_its_last_run(device: torch.device) -> None:
    from holdfast._kernels.digest import Plan

    tensors = (torch.zeros(40, dtype=torch.uint8, device=device), torch.zeros(0, device=device))
    plan = Plan(tensors, (b"name", b"nothing"))
    for value in (0, 1):
        tensors[0][7] = value
        expected = [blake3(b"name" + tensors[0].cpu().numpy().tobytes()).hexdigest(), blake3(b"nothing").hexdigest()]
        assert hexes(plan.roots()) == expected


@pytest.mark.parametrize("context", ["", "x", "y" * 64, "z" * 65, "w" * 1024])
def test_the_key_of_a_context_is_the_package_s(device: torch.device, context: str) -> None:
    from holdfast._kernels.digest import Plan

    found = Plan((torch.zeros(1, dtype=torch.uint8, device=device),), context=context).roots()
    assert hexes(found) == [blake3(b"\0", derive_key_context=context).hexdigest()]


def test_a_context_longer_than_a_chunk_is_refused() -> None:
    from holdfast._kernels.blake3_key import context_key

    with pytest.raises(InvalidConfig, match="1025 bytes"):
        context_key("x" * 1025)


def test_one_changed_byte_is_found_and_named_on_the_device(device: torch.device) -> None:
    from holdfast._kernels.digest import Plan, differing

    tensors = scattered([30, 150, 99, 64], device, aligned=False)
    plan = Plan(tuple(tensors))
    signed = plan.roots()
    tensors[2][98] ^= 1
    assert differing(plan.roots(), signed).tolist() == [False, False, True, False]
    tensors[2][98] ^= 1
    assert not differing(plan.roots(), signed).any()
    with pytest.raises(InvalidConfig, match="4 digests cannot be compared with 3"):
        differing(signed, signed[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_any_dtype_and_shape_is_read_as_its_bytes(device: torch.device, dtype: torch.dtype) -> None:
    from holdfast._kernels.digest import roots

    tensors = [
        torch.ones(3, 5, dtype=torch.float32).to(dtype).to(device),
        torch.ones((), dtype=torch.float32).to(dtype).to(device),
    ]
    assert hexes(roots(tensors)) == [of_package(item) for item in tensors]


def test_what_does_not_lie_in_order_is_refused(device: torch.device) -> None:
    from holdfast._kernels.digest import roots

    with pytest.raises(InvalidConfig, match="contiguous"):
        roots([torch.zeros(4, 4, device=device).t()[:3]])


def test_a_tensor_that_moved_is_not_read_where_it_was(device: torch.device) -> None:
    from holdfast._kernels.digest import Plan

    tensor = torch.zeros(8, device=device)
    plan = Plan((tensor,))
    plan.roots()
    tensor.data = torch.ones(8, device=device)
    with pytest.raises(InvalidConfig, match="moved"):
        plan.roots()


def test_no_tensor_has_no_root() -> None:
    pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")
    from holdfast._kernels.digest import roots

    assert roots([]).shape == (0, 32)
