"""Where each chunk and node of a digest stands: the tables that the kernels of :mod:`blake3_tree` read.

Ranges of fewer chunks than a tile take a power of two of slots each, the larger ranges first, as in a buddy allocator;
then every subtree starts at a multiple of its own size and lies in one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024  # bytes
TILE = 1024  # nodes that one program merges
_WIDE = 16  # bytes; addresses that are multiples of it are read so many at a time


@dataclass(frozen=True, slots=True)
class Level:
    """One launch over nodes.

    Attributes:
        table: int64 (3, ranges), on the device: first slot, nodes, levels of the tree within a tile.
        slots: columns of its nodes.
        deep: whether any two nodes merge.
        source: which slot of the launch before each slot takes, int64 (slots,); None for the first.
        ends: slots of the nodes that are roots after it, int64.
    """

    table: Tensor
    slots: int
    deep: bool
    source: Tensor | None
    ends: Tensor

    @property
    def ranges(self) -> int:
        """How many there are."""
        return self.table.shape[1]


@dataclass(frozen=True, slots=True)
class Tables:
    """All that the launches of one digest read, on the device.

    Attributes:
        table: int64 (4, ranges): bytes, address, address of the head, chunks that the head covers; by slot.
        key: int64 (8,).
        heads: what the table has addresses of; to be filled before every run.
        pieces: int64 (ranges, 5): of what, as :func:`~holdfast._kernels.blake3_heads.fill_heads` reads it.
        addresses: of the tensors, in the caller's order.
        levels: the launches.
        places: int64 (ranges,): where among the ends of all launches each root is found, in the caller's order.
        flags: of every compression.
        shifted: whether some address is not a multiple of 16.
    """

    table: Tensor
    key: Tensor
    heads: Tensor
    pieces: Tensor
    addresses: list[int]
    levels: tuple[Level, ...]
    places: Tensor
    flags: int
    shifted: bool


def lay_out(
    tensors: Sequence[Tensor],
    prefixes: Sequence[int],
    covered: Sequence[int],
    heads: Tensor,
    *,
    key: Sequence[int],
    flags: int,
) -> Tables:
    """Return the tables for tensors that each follow so many bytes of a prefix.

    Args:
        tensors: contiguous, at least one, all on one device.
        prefixes: bytes of each one's prefix.
        covered: bytes of each that ``heads`` holds a copy of, the prefix and what follows it up to the chunk's end.
        heads: uint8, room for those bytes one after the other, on the same device.
        key: eight words.
        flags: of every compression.
    """
    device, addresses = tensors[0].device, [item.data_ptr() for item in tensors]
    before, held = np.array(prefixes, np.int64), np.array(covered, np.int64)
    lengths = np.array([item.nbytes for item in tensors], np.int64) + before
    bodies = np.array(addresses, np.int64) - before
    place = np.cumsum(held) - held
    places = np.where(held > 0, place + heads.data_ptr(), 0)
    pieces = _there(
        np.stack([np.array(addresses, np.int64), np.cumsum(before) - before, before, place, held], 1), device
    )
    counts = np.maximum(-(-lengths // CHUNK), 1)
    order = np.argsort(-_room(counts), kind="stable")
    table = np.stack([lengths, bodies, places, -(-held // CHUNK)])[:, order]
    levels, found = _levels(counts[order], device)
    at = np.empty(len(order), np.int64)
    at[order] = found
    shifted = bool(((bodies | places) % _WIDE).any())
    words = torch.tensor(list(key), dtype=torch.int64).to(device)
    return Tables(_there(table, device), words, heads, pieces, addresses, levels, _there(at, device), flags, shifted)


def _room(counts: np.ndarray) -> np.ndarray:
    """Return how many slots ranges of so many nodes take: a power of two, or whole tiles."""
    small = np.array([1 << int(count - 1).bit_length() for count in counts], np.int64)
    return np.where(counts < TILE, small, -(-counts // TILE) * TILE)


def _levels(counts: np.ndarray, device: torch.device) -> tuple[tuple[Level, ...], np.ndarray]:
    """Return the launches over ranges of so many nodes, those of most first, and where each one's root ends up."""
    levels: list[Level] = []
    roots, alive, before = np.empty(len(counts), np.int64), np.arange(len(counts)), 0
    source = None
    while len(alive):
        room = _room(counts)
        starts, slots = np.cumsum(room) - room, int(room.sum())
        depths = np.array([int(min(count, TILE) - 1).bit_length() for count in counts], np.int64)
        table = _there(np.stack([starts, counts, depths]), device)
        more = counts > TILE
        ends = starts[~more]
        levels.append(Level(table, slots, bool(depths.any()), source, _there(ends, device)))
        roots[alive[~more]] = before + np.arange(len(ends))
        before += len(ends)
        alive, fewer = alive[more], -(-counts[more] // TILE)
        # the nodes of one range by far the largest may be fewer, tile for tile, than another's: sorted once more
        order = np.argsort(-_room(fewer), kind="stable")
        source = _there(_taken(starts[more][order], fewer[order]), device)
        alive, counts = alive[order], fewer[order]
    return tuple(levels), roots


def _taken(starts: np.ndarray, fewer: np.ndarray) -> np.ndarray:
    """Return the slot of the launch before that each slot of the next takes; those between ranges take any."""
    room = _room(fewer)
    local = np.arange(int(room.sum())) - np.repeat(np.cumsum(room) - room, room)
    taken: np.ndarray = np.repeat(starts, room) + np.minimum(local, np.repeat(fewer, room) - 1) * TILE
    return taken


def _there(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
