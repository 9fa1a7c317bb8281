"""Errors of simulated chips in memory on the device: the same bits as the reference, drawn where they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast._kernels.chip_events import FIELDS, mark_events
from holdfast._kernels.digest import octets as octets_of
from holdfast._kernels.flips import count_bits, xor_listed, xor_map
from holdfast.errors import InvalidConfig

WINDOW = 2**30  # bits of a map
_LANES = 4096  # bytes, or flips, of one program
_LIST = 2**16  # rows of a list at once, 0.7 GiB of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What a law of errors passes to the kernels.

    Attributes:
        bands: rows of :func:`~holdfast._kernels.chip_events.mark_events`' table, the first block excepted.
        poisson: ascending bounds of the counts, uint64.
        least: the count below the first bound.
        slot: 64-bit words that a block owns.
        most: events that it has room for.
    """

    bands: tuple[tuple[int, ...], ...]
    poisson: np.ndarray
    least: int
    slot: int
    most: int


def flip_(octets: Tensor, drawing: Drawing, start: int) -> int:
    """XOR the errors from address ``start`` on into ``octets``, window by window; return how many bits flipped.

    Args:
        octets: uint8, shape (n,), contiguous; bit j of byte i has address ``start + 8 * i + j``.
        drawing: the law.
        start: address of the first bit.
    """
    memory, flipped = octets_of(octets), 0
    for first in range(0, len(memory), WINDOW // 8):
        part = memory[first : first + WINDOW // 8]
        flags = error_map(len(part), drawing, start + 8 * first, memory.device)
        flipped += flip_map_(part, flags)
    return flipped


def error_map(size: int, drawing: Drawing, start: int, device: torch.device) -> Tensor:
    """Return the errors among ``8 * size`` addresses from ``start`` on, one bit each: uint8, shape (size,)."""
    flags = torch.zeros(-(-size // 4), dtype=torch.int32, device=device)
    _launch(drawing, start, start + 8 * size, flags, range(len(drawing.bands)))
    return flags.view(torch.uint8)[:size]


def flip_map_(octets: Tensor, flags: Tensor) -> int:
    """XOR ``flags`` into ``octets``, both uint8 of shape (n,); return how many bits flipped."""
    counts = torch.zeros(-(-len(octets) // _LANES), dtype=torch.int64, device=octets.device)
    with torch.cuda.device_of(octets):
        if len(counts):
            xor_map[(len(counts),)](octets, flags, counts, len(octets), LANES=_LANES)
    return int(counts.sum())


def error_list(start: int, stop: int, drawing: Drawing, device: torch.device) -> Tensor:
    """Return the errors from ``start`` up to ``stop``: addresses, int64, ascending, each once."""
    found = [torch.empty(0, dtype=torch.int64, device=device)]
    for bands in range(len(drawing.bands)):
        for begin, end in _spans(drawing.bands[bands], start, stop):
            listed = _launch(drawing, begin, end, None, range(bands, bands + 1), device)
            found.append(listed[listed >= 0])
    ascending: Tensor = torch.unique(torch.cat(found))
    return ascending


def _spans(band: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[int, int]]:
    step = _LIST << band[3]
    for begin in range(start, stop, step):
        yield begin, min(stop, begin + step)


def flip_listed_(octets: Tensor, addresses: Tensor, *, first: int = 0, bits: int = 8) -> int:
    """Flip the bits at ``addresses`` in memory, in place; return how many there are.

    Args:
        octets: uint8, shape (n,), contiguous, on the device.
        addresses: int64, each once: bit ``a % bits`` of element ``a // bits``.
        first: address of the memory's first bit.
        bits: of an element; fewer than eight for one element a byte, eight for memory without gaps.

    Raises:
        InvalidConfig: an address outside the memory.
    """
    memory = octets_of(octets)
    room = len(memory) * min(bits, 8)
    if not len(addresses):
        return 0
    if int(addresses.min()) < first or int(addresses.max()) >= first + room:
        raise InvalidConfig(f"an address lies outside the {room} bits from {first} on")
    # atomics are of whole words: the first may begin up to three bytes before the memory, whose bits are left alone
    before = memory.data_ptr() % 4
    with torch.cuda.device_of(memory):
        grid = (-(-len(addresses) // _LANES),)
        place = memory.data_ptr() - before
        xor_listed[grid](place, addresses, len(addresses), first, bits, 8 * before, LANES=_LANES)
    return len(addresses)


def popcount(tensor: Tensor) -> int:
    """Return the number of set bits of a contiguous tensor, counted where it lies."""
    return _counted(octets_of(tensor), None)


def hamming_distance(left: Tensor, right: Tensor) -> int:
    """Return the number of differing bits of two contiguous tensors of one shape and dtype on one device.

    Raises:
        InvalidConfig: they are not alike.
    """
    if (left.shape, left.dtype, left.device) != (right.shape, right.dtype, right.device):
        raise InvalidConfig(f"cannot compare {left.dtype}{tuple(left.shape)} with {right.dtype}{tuple(right.shape)}")
    return _counted(octets_of(left), octets_of(right))


def _counted(left: Tensor, right: Tensor | None) -> int:
    counts = torch.zeros(-(-len(left) // _LANES), dtype=torch.int64, device=left.device)
    with torch.cuda.device_of(left):
        if len(counts):
            other = left if right is None else right
            count_bits[(len(counts),)](left, other, counts, len(left), LANES=_LANES, TWO=right is not None)
    return int(counts.sum())


def _launch(
    drawing: Drawing, start: int, stop: int, flags: Tensor | None, bands: range, device: torch.device | None = None
) -> Tensor:
    """Draw some of the bands between two addresses into a map, or into a list that is returned."""
    chosen = [drawing.bands[number] for number in bands]
    firsts = [start >> row[3] for row in chosen]
    blocks = [-((-stop) >> row[3]) - first for row, first in zip(chosen, firsts, strict=True)]
    programs = sum(blocks)
    place = flags.device if flags is not None else device
    out = torch.full((programs, drawing.most), -1, dtype=torch.int64, device=place) if flags is None else flags
    if not programs or start >= stop:
        return out
    table = [[*_signed(row[:2]), first, *_signed(row[3:])] for row, first in zip(chosen, firsts, strict=True)]
    starts = np.cumsum([0, *blocks[:-1]])
    counters, ties = -(-drawing.slot // 4), -(-drawing.most // 4)
    with torch.cuda.device_of(out):
        mark_events[(programs,)](
            _sent(torch.from_numpy(starts.astype(np.int64)), place), _sent(torch.tensor(table), place),
            _sent(torch.from_numpy(drawing.poisson.view(np.int64)), place), out,
            len(chosen), len(chosen).bit_length(), len(drawing.poisson), drawing.least, start, stop,
            COUNTERS=counters, TIES=ties, MOST=drawing.most, LANES=1 << (counters - 1).bit_length(),
            LISTED=flags is None, FIELDS=FIELDS,
        )  # fmt: skip
    return out.view(-1)


def _sent(table: Tensor, device: torch.device | None) -> Tensor:
    """Return a table on the device; what was launched there before is not waited for."""
    return table if device is None else table.to(device, non_blocking=True)


def _signed(words: tuple[int, ...]) -> list[int]:
    return [word - 2**64 if word >= 2**63 else word for word in words]
