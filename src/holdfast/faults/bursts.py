"""Runs of adjacent bits that fail together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import changes_at
from holdfast.faults.rates import check_count, check_rate, errors, per_site, union
from holdfast.seeds import Seed


@faults.register("bursts")
@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """At each bit a burst begins with probability ``rate``; it flips that bit and the following, ``length`` in all.

    Bursts end where their site ends. A bit that two bursts meet flips once, so that a bit far from the edge flips with
    probability ``1 - (1 - rate) ** length``, and the errors of a lower rate, or of a shorter burst, are a subset.
    A site's bursts depend on the seed and its address alone.
    """

    rate: float  # bursts per bit, 0..1
    length: int = 2  # bits

    def __post_init__(self) -> None:
        check_rate(self.rate, "rate of bursts")
        check_count(self.length, "the length of a burst", most=2**20)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        reach = np.arange(self.length)
        found = []
        for site, start, own in per_site(population, seed):
            hit = (errors(site.population, self.rate, own)[:, None] + reach).ravel()
            found.append(start + hit[hit < site.population])
        return changes_at(population, flip=union(found))
