"""Bit errors that prefer a direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.rates import check_rate, errors, per_site
from holdfast.seeds import Seed


@faults.register("asymmetric-bit-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class AsymmetricBitErrors:
    """A stored zero turns one with probability ``rate_0_to_1``, a stored one zero with ``rate_1_to_0``.

    Every bit has one weakness for life, the one of :class:`BitErrors` under the same seed, and each direction has a
    threshold of its own on it. So both directions are persistent, equal rates are ``bit-errors`` exactly, and no value
    need be read: below the lower rate a bit flips whatever it holds, between the rates only one way. Measured chips
    prefer a direction, chips 2 and 3 of Stutz et al. (MLSys 2021, appendix) for example that from zero to one.
    """

    rate_0_to_1: float  # per stored zero, 0..1
    rate_1_to_0: float  # per stored one, 0..1

    def __post_init__(self) -> None:
        check_rate(self.rate_0_to_1)
        check_rate(self.rate_1_to_0)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the changes of chip ``seed``: flips up to the lower rate, rises or falls from there to the higher."""
        low, high = sorted((self.rate_0_to_1, self.rate_1_to_0))
        both, one_way = [NOTHING], [NOTHING]
        for site, start, own in per_site(population, seed):
            weak = errors(site.population, low, own)
            weaker = errors(site.population, high, own)
            both.append(start + weak)
            one_way.append(start + np.setdiff1d(weaker, weak, assume_unique=True))
        column = "rise" if self.rate_0_to_1 > self.rate_1_to_0 else "fall"
        return changes_at(population, flip=np.concatenate(both), **{column: np.concatenate(one_way)})
