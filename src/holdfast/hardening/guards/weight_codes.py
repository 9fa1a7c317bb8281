"""Codes over stored weights: kept within their least significant bits, or beside them.

- ``parity``: the last bit makes the parity of each weight even; a weight of odd parity reads as zero.
- ``mset``: the most significant exponent bit, whose flips do nearly all harm, is kept three times, twice in the last
  bits, and the majority counts (MSET).
- ``cep``: the bits of a weight are cut into chunks whose parities are the last bits; a chunk of odd parity, and with it
  the flipped bit, reads as zero (CEP, chunk-embedded parity).
- ``secded``: Hsiao's (72, 64) code of server memory; 12.5 % more memory.
- ``pages``: a BLAKE3 digest per page, which finds any change; the page is read again from storage. 0.8 % more memory.

The first three cost no memory. What they cost is the value of the last bits: at most a relative 2**(k - p) of a weight
for k bits of a significand of p, 2**-21 for ``mset`` in fp32 but 2**-6 in bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.faults.protection.columns import hsiao
from holdfast.faults.protection.linear import LinearCode
from holdfast.numerics import bits

_SIGNIFICANDS = {16: {torch.float16: 10, torch.bfloat16: 7}, 32: {torch.float32: 23}, 64: {torch.float64: 52}}


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a code says about stored words.

    Attributes:
        index: flat elements that are wrong, int64, shape (n,), ascending.
        mask: the bits to flip in them, int64, shape (n,); 0 where nothing can be done.
        right: whether the flips give back what was stored, bool, shape (n,), rather than something harmless.
    """

    index: Tensor
    mask: Tensor
    right: Tensor

    @classmethod
    def by_pieces(cls, codes: Tensor, wanted: Callable[[Tensor], Tensor], *, right: bool) -> Reading:
        """Return the reading that turns flat ``codes`` into ``wanted(codes)``, computed in pieces that fit a cache."""
        index, mask = [codes.new_empty(0, dtype=torch.int64)], [codes.new_empty(0, dtype=torch.int64)]
        for start in range(0, len(codes), _PIECE):
            piece = codes[start : start + _PIECE]
            if not torch.equal(piece, meant := wanted(piece)):
                found = (piece != meant).nonzero().flatten()
                index.append(found + start)
                mask.append((piece[found] ^ meant[found]).to(torch.int64))
        joined = torch.cat(index)
        return cls(joined, torch.cat(mask), torch.full_like(joined, right, dtype=torch.bool))

    @classmethod
    def between(cls, codes: Tensor, wanted: Tensor, right: Tensor) -> Reading:
        """Return the reading that turns ``codes`` into ``wanted``, both flat; ``right`` is bool of their shape."""
        index = (codes != wanted).nonzero().flatten()
        return cls(index, (codes[index] ^ wanted[index]).to(torch.int64), right[index])


@runtime_checkable
class WeightCode(Protocol):
    """A code over the stored elements of one site; a frozen dataclass of parameters."""

    in_place: bool

    def written(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return flat integer ``codes`` as they are to be stored; the same tensor where nothing is kept in them.

        Raises:
            UnsupportedFormat: elements of ``dtype`` have no bits to spare.
        """
        ...

    def kept(self, codes: Tensor) -> np.ndarray:
        """Return what is kept beside flat ``codes``, uint8; empty where nothing is."""
        ...

    def read(self, codes: Tensor, kept: np.ndarray) -> Reading:
        """Return what is wrong with flat ``codes``."""
        ...


weight_codes: Registry[WeightCode] = Registry("weight code", "holdfast.weight_codes")
_PIECE = 1 << 16  # elements
_NOTHING = np.empty(0, np.uint8)


def _require_float(dtype: torch.dtype, spare: int) -> None:
    significand = _SIGNIFICANDS.get(bits.bit_width(dtype), {}).get(dtype, 0)
    if spare > significand - 2:
        raise UnsupportedFormat(
            f"{dtype} has no {spare} bits to keep a code in", hint="secded and pages keep theirs beside the weights"
        )


def _parity(codes: Tensor) -> Tensor:
    """Return the parity of all bits of each element, 0 or 1, in the dtype of ``codes``."""
    folded, width = codes, bits.bit_width(codes.dtype)
    while width > 1:
        width //= 2
        folded = folded ^ (folded >> width)
    return folded & 1


@weight_codes.register("parity")
@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedParity:
    """Even parity of each weight, in its last bit; an odd number of flips is found, and the weight reads as zero."""

    in_place = True

    def written(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the codes with a last bit that makes their parity even."""
        _require_float(dtype, 1)
        return codes ^ _parity(codes)

    def kept(self, codes: Tensor) -> np.ndarray:
        """Return nothing."""
        return _NOTHING

    def read(self, codes: Tensor, kept: np.ndarray) -> Reading:
        """Return the weights of odd parity, and how they become zero."""
        return Reading.by_pieces(codes, lambda piece: piece * (1 - _parity(piece)), right=False)


@weight_codes.register("mset")
@dataclass(frozen=True, slots=True, kw_only=True)
class TripledExponent:
    """The most significant exponent bit, three times: where it belongs and in the last two bits."""

    in_place = True

    def written(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the codes with two copies of the bit below the sign."""
        _require_float(dtype, 2)
        return self._with(codes, self._top(codes))

    def kept(self, codes: Tensor) -> np.ndarray:
        """Return nothing."""
        return _NOTHING

    def read(self, codes: Tensor, kept: np.ndarray) -> Reading:
        """Return the weights whose three bits differ, and how the majority wins."""
        return Reading.by_pieces(codes, self._voted, right=True)

    def _voted(self, codes: Tensor) -> Tensor:
        first, second, third = self._top(codes), codes & 1, codes >> 1 & 1
        return self._with(codes, first & second | second & third | first & third)

    @staticmethod
    def _top(codes: Tensor) -> Tensor:
        return codes >> bits.bit_width(codes.dtype) - 2 & 1

    @staticmethod
    def _with(codes: Tensor, bit: Tensor) -> Tensor:
        place = bits.bit_width(codes.dtype) - 2
        return codes & ~(1 << place | 3) | bit << place | bit << 1 | bit


@weight_codes.register("cep")
@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkParity:
    """The parities of ``chunks`` chunks of each weight, in its last bits; a chunk of odd parity reads as zero bits."""

    chunks: int = 4
    in_place = True

    def __post_init__(self) -> None:
        if not 1 <= self.chunks <= 16:
            raise InvalidConfig(f"a weight cannot be cut into {self.chunks} chunks", hint="between 1 and 16")

    def written(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the codes with the parity of chunk k, counted from the lowest, as bit k."""
        _require_float(dtype, self.chunks)
        result = codes & ~((1 << self.chunks) - 1)
        for number, chunk in enumerate(self._masks(codes)):
            result = result | _parity(codes & chunk) << number
        return result

    def kept(self, codes: Tensor) -> np.ndarray:
        """Return nothing."""
        return _NOTHING

    def read(self, codes: Tensor, kept: np.ndarray) -> Reading:
        """Return the weights with a chunk of odd parity, and how that becomes zero."""
        return Reading.by_pieces(codes, self._cleared, right=False)

    def _cleared(self, codes: Tensor) -> Tensor:
        wanted = codes
        for number, chunk in enumerate(self._masks(codes)):
            odd = _parity(codes & (chunk | 1 << number))
            wanted = wanted & ~(-odd & (chunk | 1 << number))  # minus one is all ones
        return wanted

    def _masks(self, codes: Tensor) -> list[int]:
        """Return the bits of each chunk, as numbers that fit the signed dtype of ``codes``."""
        width = bits.bit_width(codes.dtype)
        ends = [self.chunks + (width - self.chunks) * k // self.chunks for k in range(self.chunks + 1)]
        masks = [(1 << stop) - (1 << start) for start, stop in pairwise(ends)]
        return [mask - (1 << width) if mask >> width - 1 else mask for mask in masks]


@weight_codes.register("secded")
@dataclass(frozen=True, slots=True, kw_only=True)
class SecdedWords:
    """Eight check bits beside every 64 bits: one flip is corrected, two are found."""

    in_place = False

    def written(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the codes themselves."""
        return codes

    def kept(self, codes: Tensor) -> np.ndarray:
        """Return the check bits, one byte per word of eight bytes; the last word is filled with zeros."""
        return _SECDED.encode(_words(codes)).astype(np.uint8)

    def read(self, codes: Tensor, kept: np.ndarray) -> Reading:
        """Return the elements in words of a syndrome, and the flip where it names one data bit."""
        syndrome = _SECDED.encode(_words(codes)) ^ kept
        (word,) = np.nonzero(syndrome)
        place = _SECDED.meaning[syndrome[word]]
        word, place = word[place < _SECDED.data], place[place < _SECDED.data]  # a wrong check bit harms no weight
        width = bits.bit_width(codes.dtype)
        named = place >= 0
        element = torch.from_numpy((word * 64 + np.where(named, place, 0)) // width)
        mask = torch.from_numpy(np.where(named, np.int64(1) << (place % width), 0))
        inside = element < codes.numel()
        return Reading(element[inside], mask[inside], torch.from_numpy(named)[inside])


_SECDED = LinearCode(hsiao(64, 8), 8)


def _words(codes: Tensor) -> np.ndarray:
    octets = codes.cpu().contiguous().view(torch.uint8).numpy()
    return np.pad(octets, (0, -len(octets) % 8)).reshape(-1, 8)


@weight_codes.register("pages")
@dataclass(frozen=True, slots=True, kw_only=True)
class DigestedPages:
    """A BLAKE3 digest of each page of ``size`` bytes, which any change of it changes."""

    size: int = 4096
    in_place = False

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 8:
            raise InvalidConfig(f"pages have 64 bytes or more, in multiples of 8, not {self.size}")

    def written(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the codes themselves."""
        return codes

    def kept(self, codes: Tensor) -> np.ndarray:
        """Return the digest of all bytes, then that of each page: 32 bytes each."""
        data = codes.cpu().contiguous().view(torch.uint8).numpy().data
        pages = (data[start : start + self.size] for start in range(0, len(data), self.size))
        digests = [blake3(data).digest(), *(blake3(page).digest() for page in pages)]
        return np.frombuffer(b"".join(digests), np.uint8).copy()

    def read(self, codes: Tensor, kept: np.ndarray) -> Reading:
        """Return the first element of each changed page; what it was is not known here."""
        data = codes.cpu().contiguous().view(torch.uint8).numpy().data
        if blake3(data).digest() == kept[:32].tobytes():  # a single call for all pages, nearly always
            index = torch.empty(0, dtype=torch.int64)
        else:
            now = self.kept(codes).reshape(-1, 32)
            changed = np.flatnonzero((now[1:] != kept.reshape(-1, 32)[1:]).any(1))
            index = torch.from_numpy(changed) * (self.size // codes.element_size())
        return Reading(index, torch.zeros_like(index), torch.zeros_like(index, dtype=torch.bool))
