"""Runs of adjacent bits that fail together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.rates import check_count, check_rate, errors, per_site
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
        found = [NOTHING]
        for site, start, own in per_site(population, seed):
            begins = errors(site.population, self.rate, own)
            # a burst that meets the next one stops there, since the next is as long; the last stops with the site
            runs = np.minimum(np.diff(begins, append=site.population), self.length)
            inside = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
            found.append(start + np.repeat(begins, runs) + inside)
        return changes_at(population, flip=np.concatenate(found))
