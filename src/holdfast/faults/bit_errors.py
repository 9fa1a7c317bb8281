"""Random bit errors of low-voltage memory, as simulated chips with exact persistence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive

_BLOCK = 2**20  # bits that share a family of streams
_FLOOR = 20  # marks below 2**-_FLOOR form one band


@faults.register("bit-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class BitErrors:
    """Independent bit errors of low-voltage memory: each stored bit flips with probability ``rate``.

    Every bit of a chip has a fixed mark u, uniform in [0, 1), and flips iff u < ``rate``; so under one seed the errors
    of a lower rate are a subset of those of a higher one, as on a real chip (Stutz et al., MLSys 2021, section 3;
    ``rate`` is their *p*). Marks are drawn per (seed, site, block of 2**20 bits), so a chip is the same for any
    selection or order of sites. Cost is proportional to the number of flips.
    """

    rate: float  # per bit, 0..1

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise InvalidConfig(f"a bit error rate lies between 0 and 1, not {self.rate}", hint="0.01 is one percent")

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``, one entry per site that has any."""
        drawn = (_in_site(site, self.rate, derive(seed, site.address)) for site in population.sites)
        return [item for item in drawn if item is not None]


def _in_site(site: Site, rate: float, seed: Seed) -> Flips | None:
    starts = range(0, site.population, _BLOCK)
    parts = [
        start + positions(min(_BLOCK, site.population - start), rate, derive(seed, number))
        for number, start in enumerate(starts)
    ]
    found = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if found.size == 0:
        return None
    element, bit = np.divmod(found, site.bits)
    # positions ascend, so the bits of one element stand side by side
    firsts = np.flatnonzero(np.diff(element, prepend=-1))
    mask = np.bitwise_or.reduceat(np.int64(1) << bit, firsts)
    return Flips(site, torch.from_numpy(element[firsts]), torch.from_numpy(mask))


def positions(count: int, rate: float, seed: Seed) -> np.ndarray:
    """Return the positions in 0 .. count-1 whose mark is below ``rate``, int64, ascending and unique.

    Marks come in bands: one floor band [0, 2**-20), then [2**-(k+1), 2**-k) for k = 19, 18, ... Each band is an
    independent Bernoulli process at its rate conditional on no lower band having the bit, drawn by geometric gaps;
    bits that a lower band has already are skipped. Bands above ``rate`` are never drawn.
    """
    taken = np.zeros(count, np.bool_)
    below: list[np.ndarray] = [np.empty(0, np.int64)]
    for low, high, number in _bands(rate):
        generator = derive(seed, "band", number).numpy()
        hits = _bernoulli(generator, count, (high - low) / (1 - low))
        fresh = ~taken[hits]
        taken[hits] = True
        if high > rate:  # only in the highest band is a mark's place within it of interest
            # the sum can round up to the band's end, which belongs to the next band
            fresh &= np.minimum(low + (high - low) * generator.random(len(hits)), np.nextafter(high, 0)) < rate
        below.append(hits[fresh])
    return np.sort(np.concatenate(below))


def _bands(rate: float) -> Iterator[tuple[float, float, int]]:
    """Yield (low, high, number) of every band that starts below ``rate``, lowest first."""
    if rate > 0:
        yield 0.0, 2.0**-_FLOOR, _FLOOR
    for k in range(_FLOOR - 1, -1, -1):
        if 2.0 ** -(k + 1) < rate:
            yield 2.0 ** -(k + 1), 2.0**-k, k


def _bernoulli(generator: np.random.Generator, count: int, p: float) -> np.ndarray:
    """Return the successes among ``count`` trials of probability ``p``, sorted, by geometric gaps."""
    if p >= 1:
        return np.arange(count, dtype=np.int64)
    parts, position = [], -1
    while position < count:
        expected = (count - position) * p
        size = int(expected + 6 * math.sqrt(expected) + 8)
        gaps = 1 + np.floor(np.log1p(-generator.random(size)) / math.log1p(-p))
        # a gap beyond the block ends it; cutting it there keeps the sum exact in float64
        steps = position + np.cumsum(np.minimum(gaps, count + 1))
        parts.append(steps)
        position = int(min(steps[-1], 2**52))
    hits = np.concatenate(parts)
    return hits[hits < count].astype(np.int64)
