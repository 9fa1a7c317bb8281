"""Errors of simulated chips in memory on the device: the same bits as the reference, drawn where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast._kernels.chip_events import FIELDS, ROWS, mark_events
from holdfast._kernels.digest import octets as octets_of
from holdfast._kernels.flips import count_bits, xor_listed, xor_map
from holdfast.errors import InvalidConfig

WINDOW = 2**30  # bits of a map
_LANES = 256  # flips of one program
_WORDS = 2048  # elements of one program that passes over memory: four reads of 16 bytes a thread
_COUNTERS = 32  # drawn at once, by one warp
_SLAB = 2**27  # bits of a map that all bands mark before the next: a third of the cache of a large GPU
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
    memory, found = octets_of(octets), []
    flags = _map(min(len(memory), WINDOW // 8), memory.device)
    for first in range(0, len(memory), WINDOW // 8):
        part = memory[first : first + WINDOW // 8]
        begin = start + 8 * first
        _launch(drawing, begin, begin + 8 * len(part), flags, range(len(drawing.bands)))
        found += _passed(part, flags.view(torch.uint8)[: len(part)])
    return _total(found)


def _map(size: int, device: torch.device) -> Tensor:
    """Return a map without errors for so many bytes."""
    return torch.zeros(-(-size // 4), dtype=torch.int32, device=device)


def error_map(size: int, drawing: Drawing, start: int, device: torch.device) -> Tensor:
    """Return the errors among ``8 * size`` addresses from ``start`` on, one bit each: uint8, shape (size,)."""
    flags = _map(size, device)
    _launch(drawing, start, start + 8 * size, flags, range(len(drawing.bands)))
    return flags.view(torch.uint8)[:size]


def _passed(octets: Tensor, flags: Tensor) -> list[Tensor]:
    """XOR ``flags`` into ``octets``, both uint8 of shape (n,), and clear them; return counts of what was flipped."""
    found = []
    with torch.cuda.device_of(octets):
        for part, own in zip(_words(octets, flags), _words(flags, octets), strict=True):
            counts = torch.empty(-(-len(part) // _WORDS), dtype=torch.int64, device=octets.device)
            xor_map[(len(counts),)](part, own, counts, len(part), LANES=_WORDS)
            found.append(counts)
    return found


def _words(octets: Tensor, *others: Tensor) -> list[Tensor]:
    """Return a memory in parts, none of them empty: int32 as far as it and the others allow it, and uint8."""
    if any(item.data_ptr() % 16 or item.storage_offset() % 4 for item in (octets, *others)):
        return [octets] if len(octets) else []
    whole = len(octets) // 4 * 4
    return [part for part in (octets[:whole].view(torch.int32), octets[whole:]) if len(part)]


def _total(counts: Sequence[Tensor]) -> int:
    return int(torch.cat([part.sum().view(1) for part in counts]).sum()) if counts else 0


def error_list(start: int, stop: int, drawing: Drawing, device: torch.device) -> Tensor:
    """Return the errors from ``start`` up to ``stop``: addresses, int64, ascending, each once."""
    found = [torch.empty(0, dtype=torch.int64, device=device)]
    for bands, begin, end in _spans(drawing, start, stop):
        listed = _launch(drawing, begin, end, None, bands, device)
        found.append(listed[listed >= 0])
    ascending: Tensor = torch.unique(torch.cat(found))
    return ascending


def _spans(drawing: Drawing, start: int, stop: int) -> Iterator[tuple[range, int, int]]:
    """Yield bands, begin and end of each launch: all of them at once where that is no more than ``_LIST`` rows."""
    if sum(((stop - start) >> row[3]) + 2 for row in drawing.bands) <= _LIST:
        yield range(len(drawing.bands)), start, stop
        return
    for number, band in enumerate(drawing.bands):
        step = _LIST << band[3]
        for begin in range(start, stop, step):
            yield range(number, number + 1), begin, min(stop, begin + step)


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
    least, most = torch.stack(torch.aminmax(addresses)).tolist()
    if least < first or most >= first + room:
        raise InvalidConfig(f"an address lies outside the {room} bits from {first} on")
    # atomics are of whole words: the first may begin up to three bytes before the memory, whose bits are left alone
    before = memory.data_ptr() % 4
    with torch.cuda.device_of(memory):
        grid = (-(-len(addresses) // _LANES),)
        place = memory.data_ptr() - before
        xor_listed[grid](place, addresses, len(addresses), first, 8 * before, BITS=min(bits, 8), LANES=_LANES)
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
    found, pairs = [], [_words(left), _words(left)] if right is None else [_words(left, right), _words(right, left)]
    with torch.cuda.device_of(left):
        for part, other in zip(*pairs, strict=True):
            counts = torch.empty(-(-len(part) // _WORDS), dtype=torch.int64, device=left.device)
            count_bits[(len(counts),)](part, other, counts, len(part), LANES=_WORDS, TWO=right is not None)
            found.append(counts)
    return _total(found)


def _launch(
    drawing: Drawing, start: int, stop: int, flags: Tensor | None, bands: range, device: torch.device | None = None
) -> Tensor:
    """Draw some of the bands between two addresses into a map, or into a list that is returned."""
    chosen = [drawing.bands[number] for number in bands]
    table, blocks = _rows(chosen, start, stop, 1 if flags is None else ROWS // max(len(chosen), 1))
    programs = sum(blocks)
    place = flags.device if flags is not None else device
    out = torch.full((programs, drawing.most), -1, dtype=torch.int64, device=place) if flags is None else flags
    if not programs or start >= stop:
        return out
    starts, counters, ties = np.cumsum([0, *blocks[:-1]]), -(-drawing.slot // 4), -(-drawing.most // 4)
    poisson, rows, first = _sent([drawing.poisson.view(np.int64), np.array(table), starts], place)
    with torch.cuda.device_of(out):
        mark_events[(programs,)](
            first, rows, poisson, out, len(table), len(drawing.poisson), drawing.least, start, stop,
            COUNTERS=counters, TIES=ties, MOST=drawing.most, LANES=_COUNTERS,
            LISTED=flags is None, FIELDS=FIELDS, num_warps=1,
        )  # fmt: skip
    return out.view(-1)


def _rows(bands: Sequence[tuple[int, ...]], start: int, stop: int, most: int) -> tuple[list[list[int]], list[int]]:
    """Return the table of bands between two addresses, slab after slab of at most ``most``, and the blocks of each row.

    Programs start in the order of their numbers, so that a slab of a map is in the cache while all bands mark it. What
    two slabs both hold of a block is drawn by both, and marked once more.
    """
    table, blocks = [], []
    slab = max(_SLAB, -(-(stop - start) // most))
    for begin in range(start, stop, slab):
        for row in bands:
            first = begin >> row[3]
            table.append([*_signed(row[:2]), first, *_signed(row[3:])])
            blocks.append(-((-min(stop, begin + slab)) >> row[3]) - first)
    return table, blocks


def _sent(tables: Sequence[np.ndarray], device: torch.device | None) -> list[Tensor]:
    """Return int64 tables on the device by one copy, each at 16 bytes; what was launched there is not waited for."""
    sizes = [-(-table.size // 2) * 2 for table in tables]
    whole = np.concatenate([np.resize(table.astype(np.int64), size) for table, size in zip(tables, sizes, strict=True)])
    there = torch.from_numpy(whole).to(device, non_blocking=True)
    return list(there.split(sizes))


def _signed(words: tuple[int, ...]) -> list[int]:
    return [word - 2**64 if word >= 2**63 else word for word in words]
