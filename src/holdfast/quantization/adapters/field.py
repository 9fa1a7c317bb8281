"""Where the bits of packed numbers lie: one description gives the address of a bit, its inverse, unpacking and packing.

Every layout met here is periodic. A *block* of a few words holds a few *lanes*; a table says at which bit of the block
each bit of each lane lies; blocks, words and rows follow one another at fixed distances. GPTQ's 3-bit codes across
three words, AWQ's shuffled nibbles and the high bits of GGUF's Q6_K are all tables, so none of them has code of its
own, and what flips in a file is by construction what flips in the codes.

Bits are numbered as the machine stores little-endian words: bit b of a tensor is bit ``b % 8`` of byte ``b // 8``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from holdfast.errors import InvalidConfig

Octets = NDArray[np.uint8]
Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Field:
    """Integers of one kind in one stored tensor, as a matrix of ``rows`` and ``columns``.

    Flat element e of a field is row ``e // columns``, column ``e % columns``. Distances are in bits, and multiples of
    eight but for those within a block.
    """

    tensor: str  # name of the stored tensor
    rows: int
    columns: int
    table: Table  # [lane][bit] -> position in the block
    dtype: torch.dtype  # of the numbers once unpacked; at least as wide as the table
    packed: int = 1  # which dimension runs through the lanes: 0 the rows, 1 the columns
    block: int  # distance between neighbouring blocks along the packed dimension
    other: int  # distance between neighbours along the other dimension
    word: int = 0  # distance between the words of a block
    word_bits: int = 0  # 0: the block is one word
    start: int = 0

    @property
    def bits(self) -> int:
        """Bits per element."""
        return len(self.table[0])

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.rows * self.columns

    def offset(self, element: Tensor, bit: Tensor) -> Tensor:
        """Return the bit of the stored tensor that holds ``bit`` of flat ``element``; all int64, one shape.

        Raises:
            InvalidConfig: an element or a bit that the field does not have.
        """
        _require_range("element", element, self.numel)
        _require_range("bit", bit, self.bits)
        row, column = element // max(self.columns, 1), element % max(self.columns, 1)
        along, other = (row, column) if self.packed == 0 else (column, row)
        lanes = len(self.table)
        position = self._positions.to(element.device)[along % lanes, bit]
        word, within = (position // self.word_bits, position % self.word_bits) if self.word_bits else (0, position)
        return self.start + other * self.other + (along // lanes) * self.block + word * self.word + within

    def locate(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return (flat element, bit) of each bit ``offset`` of the stored tensor; -1 and -1 where it is not ours."""
        rest = offset - self.start
        valid = rest >= 0
        digits = {name: torch.zeros_like(offset) for name in ("other", "block", "word")}
        for name, distance, count in self._digits:
            digits[name] = (rest // distance).clamp(min=0, max=count - 1)
            rest = rest - digits[name] * distance
        width = self.word_bits or len(self._inverse)
        valid &= (rest >= 0) & (rest < width)
        position = (digits["word"] * self.word_bits + rest).clamp(0, len(self._inverse) - 1)
        found = self._inverse.to(offset.device)[position]
        along = digits["block"] * len(self.table) + found // self.bits
        valid &= (found >= 0) & (along < self._extent)
        element = digits["other"] * self.columns + along if self.packed == 1 else along * self.columns + digits["other"]
        return torch.where(valid, element, -1), torch.where(valid, found % self.bits, -1)

    def unpack(self, octets: Octets) -> Tensor:
        """Return the elements, shape (rows, columns), from the bytes (uint8, shape (n,)) of the stored tensor."""
        if not self.numel:
            return torch.zeros(self.rows, self.columns, dtype=self.dtype)
        view = self._view(octets)
        lanes = np.zeros((*view.shape[:2], len(self.table)), self._carrier)
        for run in self._runs:
            part = (view[:, :, run.word, run.byte] >> run.shift) & run.mask
            lanes[:, :, run.lane] |= part.astype(self._carrier) << run.low.astype(self._carrier)
        flat = lanes.reshape(lanes.shape[0], -1)[:, : self._extent]
        ordered = np.ascontiguousarray(flat if self.packed == 1 else flat.T)
        return self._extended(torch.from_numpy(ordered.view(_SIGNED[self._carrier.itemsize])).view(self.dtype))

    def _extended(self, values: Tensor) -> Tensor:
        """Carry the sign of a narrow signed number into the bits above it."""
        spare = 8 * self.dtype.itemsize - self.bits
        return values << spare >> spare if spare and self._signed else values

    @property
    def _signed(self) -> bool:
        return self.dtype.is_signed and not self.dtype.is_floating_point

    def take(self, octets: Octets, element: Tensor) -> Tensor:
        """Return the elements at flat ``element`` (int64, (n,)) as bits, int64; the cost is that of the elements."""
        bit = torch.arange(self.bits)
        offset = self.offset(element[:, None].expand(-1, self.bits), bit.expand(len(element), -1)).numpy()
        ones = (octets[offset >> 3] >> (offset & 7).astype(np.uint8)) & 1
        return (torch.from_numpy(ones.astype(np.int64)) << bit).sum(1)

    def xor_(self, octets: Octets, element: Tensor, mask: Tensor) -> None:
        """Flip bits ``mask`` of flat ``element`` (int64, (n,)) where they are stored; once more undoes it.

        Raises:
            InvalidConfig: an element or a bit that the field does not have.
        """
        bit = torch.arange(64)
        which, flipped = torch.nonzero((mask[:, None] >> bit) & 1, as_tuple=True)
        offset = self.offset(element[which], flipped).numpy()
        np.bitwise_xor.at(octets, offset >> 3, np.left_shift(1, offset & 7).astype(np.uint8))

    def pack_(self, octets: Octets, values: Tensor) -> None:
        """Write ``values`` (``dtype``, numel of the field) into the bytes of the stored tensor; other bits stay.

        Raises:
            InvalidConfig: another dtype or number of elements, or a value wider than the field.
        """
        if not self.numel and not values.numel():
            return
        view, lanes = self._view(octets), self._lanes(values)
        for run in self._runs:
            part = ((lanes[:, :, run.lane] >> run.low.astype(self._carrier)).astype(np.uint8) & run.mask) << run.shift
            hidden = view[:, :, run.word, run.byte] & ~(run.mask << run.shift)
            if self._extent % len(self.table):  # lanes beyond the last element are padding and keep their bits
                part, hidden = self._keep_padding(view, run, part, hidden)
            view[:, :, run.word, run.byte] = hidden | part

    def _keep_padding(self, view: Octets, run: _Run, part: Octets, hidden: Octets) -> tuple[Octets, Octets]:
        padding = run.lane >= self._extent % len(self.table)
        part[:, -1, padding] = 0
        hidden[:, -1, padding] = view[:, -1, run.word[padding], run.byte[padding]]
        return part, hidden

    def _lanes(self, values: Tensor) -> NDArray[np.unsignedinteger]:
        """Return ``values`` as (other, blocks, lanes), padded with zeros."""
        if values.dtype != self.dtype or values.numel() != self.numel:
            have = f"{values.numel()} values of {values.dtype}"
            raise InvalidConfig(f"{self.tensor} takes {self.numel} values of {self.dtype}, not {have}")
        flat = values.detach().cpu().contiguous().view(-1).view(_TORCH_SIGNED[self._carrier.itemsize])
        unsigned = flat.numpy().view(self._carrier).reshape(self.rows, self.columns)
        if self.bits < 8 * self._carrier.itemsize:
            unsigned = self._narrowed(unsigned)
        along = unsigned if self.packed == 1 else unsigned.T
        padded = np.zeros((along.shape[0], self._blocks * len(self.table)), self._carrier)
        padded[:, : self._extent] = along
        return padded.reshape(along.shape[0], self._blocks, len(self.table))

    def _narrowed(self, unsigned: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        low = unsigned & self._carrier.type((1 << self.bits) - 1)
        back = self._extended(torch.from_numpy(low.view(_SIGNED[self._carrier.itemsize])).view(self.dtype))
        if not np.array_equal(back.numpy().view(self._carrier), unsigned):
            raise InvalidConfig(f"a value for {self.tensor} does not fit its {self.bits} bits")
        return low

    def _view(self, octets: Octets) -> Octets:
        """Return the bytes as (other, blocks, words, bytes of a word), sharing memory, after checking its extent."""
        width = self.word_bits or len(self._inverse)
        counts = (self._others, self._blocks, len(self._inverse) // width, width // 8)
        distances = (self.other // 8, self.block // 8, self.word // 8, 1)
        last = self.start // 8 + sum((count - 1) * step for count, step in zip(counts, distances, strict=True))
        if octets.dtype != np.uint8 or octets.ndim != 1 or not octets.flags.c_contiguous or last >= len(octets):
            raise InvalidConfig(f"{self.tensor} has {len(octets)} bytes, its layout reaches byte {last}")
        return as_strided(octets[self.start // 8 :], counts, distances)

    @property
    def _others(self) -> int:
        return self.rows if self.packed == 1 else self.columns

    @property
    def _extent(self) -> int:
        return self.columns if self.packed == 1 else self.rows

    @property
    def _blocks(self) -> int:
        return -(-self._extent // len(self.table))

    @property
    def _carrier(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype(f"u{self.dtype.itemsize}")

    @cached_property
    def _positions(self) -> Tensor:
        return torch.tensor(self.table, dtype=torch.int64)

    @cached_property
    def _inverse(self) -> Tensor:
        """Position in the block -> lane * bits + bit, or -1; as long as the whole words of the block."""
        unit = self.word_bits or 8
        length = -(-(int(self._positions.max()) + 1) // unit) * unit
        inverse = torch.full((length,), -1, dtype=torch.int64)
        inverse[self._positions.view(-1)] = torch.arange(self._positions.numel())
        return inverse

    @cached_property
    def _digits(self) -> list[tuple[str, int, int]]:
        """The mixed radix of an offset, greatest distance first, without the digits that are always zero."""
        words = len(self._inverse) // (self.word_bits or len(self._inverse))
        radix = [("other", self.other, self._others), ("block", self.block, self._blocks), ("word", self.word, words)]
        return sorted((item for item in radix if item[2] > 1), key=lambda item: -item[1])

    @cached_property
    def _runs(self) -> list[_Run]:
        return list(_runs(self.table, self.word_bits or len(self._inverse)))


@dataclass(frozen=True)
class _Run:
    """Lanes of which some neighbouring bits lie in one byte, at one shift; every byte of the block at most once."""

    lane: NDArray[np.int64]
    word: NDArray[np.int64]
    byte: NDArray[np.int64]
    low: NDArray[np.int64]  # first bit of the lane
    mask: NDArray[np.uint8]
    shift: np.uint8


def _runs(table: Table, width: int) -> Iterator[_Run]:
    pieces: dict[tuple[int, int], list[tuple[int, int, int, int, int]]] = {}
    for lane, positions in enumerate(table):
        starts = [bit for bit, at in enumerate(positions) if bit == 0 or at % 8 == 0 or at != positions[bit - 1] + 1]
        for turn, (bit, end) in enumerate(zip(starts, [*starts[1:], len(positions)], strict=True)):
            word, within = divmod(positions[bit], width)
            piece = (lane, word, within // 8, bit, (1 << (end - bit)) - 1)
            pieces.setdefault((turn, within % 8), []).append(piece)
    for (_, shift), group in pieces.items():
        lane_, word_, byte, low, mask = (np.array(column, np.int64) for column in zip(*group, strict=True))
        yield _Run(lane_, word_, byte, low, mask.astype(np.uint8), np.uint8(shift))


_SIGNED = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
_TORCH_SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _require_range(what: str, values: Tensor, count: int) -> None:
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < count:
        raise InvalidConfig(f"{what}s run from 0 to {count - 1}", hint=f"asked for {int(values.min())} and beyond")


def sequence(bits: int, lanes: int, *, first: int = 0) -> Table:
    """Return the table of ``lanes`` numbers that follow one another, least significant bit first."""
    return tuple(tuple(first + lane * bits + bit for bit in range(bits)) for lane in range(lanes))


def plain(tensor: str, dtype: torch.dtype, rows: int, columns: int, *, transposed: bool = False) -> Field:
    """Return the field of an ordinary row-major tensor; ``transposed`` if it is stored as (columns, rows)."""
    width = dtype.itemsize * 8
    near, far = width, width * (rows if transposed else columns)
    block, other = (far, near) if transposed else (near, far)
    return Field(
        tensor=tensor, rows=rows, columns=columns, table=sequence(width, 1), dtype=dtype, block=block, other=other
    )
