"""Exactly so many bit errors: the random baseline of an attack with a budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.rates import check_count, union
from holdfast.seeds import Seed, derive


@faults.register("exact-errors")
@dataclass(frozen=True, slots=True, kw_only=True)
class ExactErrors:
    """Exactly ``count`` different bits of the population flip; every set of so many bits is equally likely.

    Under one seed and population a smaller set is a subset of a larger one. Cost and memory are proportional to
    ``count``.
    """

    count: int  # bits

    def __post_init__(self) -> None:
        check_count(self.count, "the number of bit errors", least=0)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips that ``seed`` draws.

        Raises:
            InvalidConfig: the population has fewer bits.
        """
        if self.count > population.bits:
            raise InvalidConfig(f"there are no {self.count} bits to flip in a population of {population.bits}")
        return changes_at(population, flip=distinct(population.bits, self.count, seed))


def distinct(size: int, count: int, seed: Seed) -> np.ndarray:
    """Return ``count`` different numbers below ``size`` (int64, in no order), uniform over all such sets.

    Beyond half of them, the second half is drawn among those that the first one left.
    """
    half = (size + 1) // 2
    if count <= half:
        return _first_distinct(size, count, seed)
    first = _first_distinct(size, half, seed)
    free = np.ones(size, np.bool_)
    free[first] = False
    rest = np.flatnonzero(free)
    return np.concatenate([first, rest[distinct(size - half, count - half, derive(seed, "rest"))]])


def _first_distinct(size: int, count: int, seed: Seed) -> np.ndarray:
    """Return the first ``count`` different numbers of one uniform stream: draw as many as are missing, until none are.

    The set does not depend on what is drawn but the numbers themselves, so by symmetry all sets are equally likely.
    """
    stream, found = seed.numpy().bit_generator, NOTHING
    last = np.uint64(2**64 - 1 - 2**64 % size) if count else 0  # words above would favour the small numbers
    while len(found) < count:
        raw = stream.random_raw(count - len(found))
        drawn = union([(raw[raw <= last] % np.uint64(size)).astype(np.int64)])
        found = np.sort(np.concatenate([found, _missing(drawn, found)]), kind="stable")  # merges two sorted runs
    return found


def _missing(drawn: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return those of ``drawn`` that are not in ``found``; both ascend."""
    if not len(found):
        return drawn
    place = np.minimum(np.searchsorted(found, drawn), len(found) - 1)
    missing: np.ndarray = drawn[found[place] != drawn]
    return missing
