"""Rates and shares between 0 and 1, and the errors of a chip as one list of addresses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral, Real

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Population
from holdfast.faults.addresses import NOTHING
from holdfast.faults.chip import Chip
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive


def check_rate(value: object, what: str = "bit error rate") -> None:
    """Accept a number from 0 to 1.

    Raises:
        InvalidConfig: outside, not a number, or of another type.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise InvalidConfig(f"a {what} lies between 0 and 1, not {value!r}", hint="0.01 is one percent")


def check_count(value: object, what: str, *, least: int = 1, most: int = 2**62) -> None:
    """Accept a whole number from ``least`` to ``most``.

    Raises:
        InvalidConfig: outside, or of another type.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise InvalidConfig(f"{what} is a whole number from {least} to {most}, not {value!r}")


def check_finite(value: object, what: str) -> None:
    """Accept a finite number, else raise :class:`InvalidConfig`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidConfig(f"{what} is a finite number, not {value!r}")


def errors(size: int, rate: float, seed: Seed) -> np.ndarray:
    """Return the errors among ``size`` places of chip ``seed``: int64, ascending; a lower rate gives a subset."""
    return np.concatenate([NOTHING, *(found + offset for offset, found in Chip(rate, seed).lists(0, size))])


def per_site(population: Population, seed: Seed) -> Iterator[tuple[Site, int, Seed]]:
    """Yield (site, address of its first bit, its own seed); drawn so, a site's errors do not depend on the others."""
    for site, start in zip(population.sites, population.starts, strict=True):
        yield site, start, derive(seed, site.address)


def union(parts: list[np.ndarray]) -> np.ndarray:
    """Return the union of address lists: int64, ascending, each once."""
    ordered = np.sort(np.concatenate([NOTHING, *parts]))
    fresh = np.ones(len(ordered), np.bool_)  # np.unique hashes, which is many times slower for long lists
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh]
