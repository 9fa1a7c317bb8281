"""Random bit errors of low-voltage memory, as simulated chips with exact persistence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from holdfast._kernels.device import obstacle
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.chip import Chip
from holdfast.faults.on_device import flips_on_device
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive

_STORED = ("weights", "buffers", "qparams")
Masks = tuple[np.ndarray, np.ndarray]  # elements that change (int64), and their XOR masks


@faults.register("bit-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class BitErrors:
    """Independent bit errors of low-voltage memory: each stored bit flips with probability ``rate``.

    Every bit of a chip fails at a rate of its own, so under one seed the errors of a lower rate are a subset of those
    of a higher one, as on a real chip (Stutz et al., MLSys 2021, section 3; ``rate`` is their *p*). A site's errors
    depend on the seed and the site's address alone: the same for any size, selection or order of sites, any device
    and process, and exact at any rate. Cost is proportional to the number of flips, see :mod:`holdfast.faults.chip`.
    """

    rate: float  # per bit, 0..1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InvalidConfig(f"a bit error rate lies between 0 and 1, not {self.rate}", hint="0.01 is one percent")

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``, one entry per site that has any."""
        drawn = (_in_site(site, Chip(self.rate, derive(seed, site.address))) for site in population.sites)
        return [item for item in drawn if item is not None]

    def flips_where_stored(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the same flips, drawn on the device that holds a site's codes where kernels run there."""
        each = [(site, Chip(self.rate, derive(seed, site.address))) for site in population.sites]
        drawn = (self._where_stored(population, *item) for item in each)
        return [item for item in drawn if item is not None]

    def _where_stored(self, population: Population, site: Site, chip: Chip) -> Flips | None:
        codes = population.codes(site) if population.reader is not None and site.kind in _STORED else None
        if codes is None or obstacle(codes) is not None:
            return _in_site(site, chip)
        index, mask = flips_on_device(chip, site.numel, site.bits, codes)
        return Flips(site, index, mask) if len(index) else None

    def flip_memory_(self, octets: np.ndarray, site: Site, seed: Seed) -> int:
        """Flip the errors of chip ``seed`` in the raw memory of ``site``, in place; return how many bits flipped.

        The same errors as :meth:`flips` draws, without a list of them: memory that is never held twice. ``octets`` is
        uint8 and holds the little-endian elements of the site, each as wide as its ``bits``.
        """
        return xor_chip_(octets, self.rate, derive(seed, site.address))


def xor_chip_(octets: np.ndarray, rate: float, seed: Seed, *, first: int = 0) -> int:
    """Flip the errors of a chip in raw memory, in place, and return how many bits flipped; once more undoes it.

    Bit j of byte i has address ``8 * (first + i) + j``. Memory of little-endian elements of 8, 16, 32 or 64 bits meets
    the very errors that :class:`BitErrors` draws for a site of them under ``derive(seed, site.address)``.

    Args:
        octets: uint8, shape (n,), writable; a part of a memory is enough.
        rate: per bit, 0..1.
        seed: of the chip and the site.
        first: bytes of the memory before this part.
    """
    chip, start = Chip(rate, seed), 8 * first
    count = 0
    if chip.dense:
        for offset, flags in chip.maps(start, start + 8 * len(octets)):
            masks = np.packbits(flags, bitorder="little")
            place = (offset - start) // 8
            octets[place : place + len(masks)] ^= masks
            count += int(np.count_nonzero(flags))
        return count
    for offset, addresses in chip.lists(start, start + 8 * len(octets)):
        index, mask = _merged(addresses, 8)
        octets[index + (offset - start) // 8] ^= mask.astype(np.uint8)
        count += len(addresses)
    return count


def _in_site(site: Site, chip: Chip) -> Flips | None:
    draw = _from_maps if chip.dense and site.bits in (8, 16, 32, 64) else _from_lists
    parts = list(draw(chip, site))
    index = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int64)
    if index.size == 0:
        return None
    return Flips(site, torch.from_numpy(index), torch.from_numpy(np.concatenate([part[1] for part in parts])))


def _from_maps(chip: Chip, site: Site) -> Iterator[Masks]:
    """Yield the changes window by window; a window is a whole number of elements of 8 to 64 bits."""
    for offset, flags in chip.maps(0, site.population):
        masks = np.packbits(flags, bitorder="little").view(f"<i{site.bits // 8}")
        index = np.flatnonzero(masks != 0)
        yield index + offset // site.bits, _unsigned(masks[index], site.bits)


def _from_lists(chip: Chip, site: Site) -> Iterator[Masks]:
    # addresses are made absolute first, because a window may begin inside an element
    found = [addresses + offset for offset, addresses in chip.lists(0, site.population)]
    if found:
        yield _merged(np.concatenate(found), site.bits)


def _merged(addresses: np.ndarray, bits: int) -> Masks:
    """Turn ascending bit addresses into elements and masks; the bits of one element stand side by side."""
    element, bit = np.divmod(addresses, bits)
    firsts = np.flatnonzero(np.diff(element, prepend=-1))
    if firsts.size == 0:
        return element, bit
    return element[firsts], np.bitwise_or.reduceat(np.int64(1) << bit, firsts)


def _unsigned(masks: np.ndarray, bits: int) -> np.ndarray:
    return masks.astype(np.int64) & np.int64(-1 if bits == 64 else (1 << bits) - 1)
