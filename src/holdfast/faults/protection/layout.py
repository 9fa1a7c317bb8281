"""Which bits of a memory make up one word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.faults.protection.addresses import Masks, masks_at
from holdfast.models.site import Site

_CHUNK = 2**14  # words whose bits are unpacked at once


@dataclass(frozen=True, slots=True)
class Layout:
    """Words over the bits of a site, in the order of their addresses.

    With ``ways`` = 1 a word is a run of ``word`` neighbouring bits. With more, neighbouring bits belong to ``ways``
    different words, so that a burst of up to ``ways`` bits is one error in each. The last words may be short: what
    they lack reads as zero and cannot fail.
    """

    site: Site
    word: int  # data bits per word
    ways: int = 1  # words whose bits alternate

    def __post_init__(self) -> None:
        if self.word < 1 or self.ways < 1:
            raise InvalidConfig(f"words of {self.word} bits, {self.ways} ways, cannot be laid out")

    @property
    def words(self) -> int:
        """Number of words, the short ones included."""
        full, rest = divmod(self.site.population, self.word * self.ways)
        return full * self.ways + min(self.ways, rest)

    def lengths(self) -> dict[int, int]:
        """Return how many words there are of each number of data bits."""
        full, rest = divmod(self.site.population, self.word * self.ways)
        result = {self.word: full * self.ways} if full else {}
        for lane in range(min(self.ways, rest)):
            length = -(-(rest - lane) // self.ways)
            result[length] = result.get(length, 0) + 1
        return result

    def places(self, address: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the word of each bit address and the bit's position in it, int64, shape (n,)."""
        block, offset = np.divmod(address, self.word * self.ways)
        return block * self.ways + offset % self.ways, offset // self.ways

    def addresses(self, word: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the bit addresses of positions of words; -1 where a short word has no such position."""
        block, lane = np.divmod(word, self.ways)
        address = block * (self.word * self.ways) + position * self.ways + lane
        return np.where((position < self.word) & (address < self.site.population), address, -1)

    def reads(self, word: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bits of the model that read flipped if these data positions do: which of them, and its address."""
        return np.arange(len(word)), self.addresses(word, position)

    def cleared(self, word: np.ndarray) -> Masks:
        """Return all data bits of ``word`` (int64, shape (n,), ascending)."""
        found = self.addresses(word[:, None], np.arange(self.word)[None, :]).ravel()
        found = found[found >= 0]
        return masks_at(self.site, found if self.ways == 1 else np.sort(found))

    def octets(self, codes: Tensor, word: np.ndarray) -> np.ndarray:
        """Return the data of words, packed: uint8, shape (n, ceil(word / 8)), bit j of byte i is position 8 i + j.

        Args:
            codes: flat, any integer dtype; the low ``site.bits`` of each count.
            word: int64, shape (n,).
        """
        if self._plain(codes) and len(word) == self.words:
            return self._viewed(codes)
        parts = [self._gathered(codes, word[k : k + _CHUNK]) for k in range(0, len(word), _CHUNK)]
        return np.concatenate([np.empty((0, -(-self.word // 8)), np.uint8), *parts])

    def _plain(self, codes: Tensor) -> bool:
        return self.ways == 1 and self.word % 8 == 0 and self.site.bits == 8 * codes.dtype.itemsize

    def _viewed(self, codes: Tensor) -> np.ndarray:
        # the bytes of little-endian elements are the bits in the order of their addresses
        octets = codes.cpu().contiguous().view(torch.uint8).numpy()
        padded = np.zeros(self.words * self.word // 8, np.uint8)
        padded[: len(octets)] = octets
        return padded.reshape(self.words, -1)

    def _gathered(self, codes: Tensor, word: np.ndarray) -> np.ndarray:
        address = self.addresses(word[:, None], np.arange(self.word)[None, :])
        element, bit = np.divmod(np.maximum(address, 0), self.site.bits)
        held = codes.take(torch.from_numpy(element).to(codes.device)).cpu().numpy().astype(np.int64)
        return np.packbits(((held >> bit) & 1).astype(bool) & (address >= 0), axis=1, bitorder="little")
