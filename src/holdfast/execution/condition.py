"""Conditions: what may happen to the bits of a model while it runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol, runtime_checkable

from torch import Tensor

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.models.site import Site
from holdfast.seeds import Seed


@dataclass(frozen=True)
class Population:
    """All bits of some sites, in order, each with one address."""

    sites: tuple[Site, ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(site.population for site in self.sites))

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self._ends[-1] if self.sites else 0

    def locate(self, address: int) -> tuple[Site, int, int]:
        """Return (site, flat element, bit) of a bit address.

        Raises:
            InvalidConfig: the address is outside 0 .. bits-1.
        """
        if not 0 <= address < self.bits:
            raise InvalidConfig(f"bit {address} is outside a population of {self.bits}")
        place = bisect_right(self._ends, address)
        site = self.sites[place]
        element, bit = divmod(address - (self._ends[place] - site.population), site.bits)
        return site, element, bit


@dataclass(frozen=True)
class Flips:
    """Bits to flip in one site: ``mask[k]`` is XORed into flat element ``index[k]`` (int64, shape (n,), unique)."""

    site: Site
    index: Tensor
    mask: Tensor


@runtime_checkable
class Fault(Protocol):
    """A law that draws flips; a frozen dataclass whose fields are its parameters."""

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        """Return the flips of one realisation; the same for the same arguments, everywhere."""
        ...


faults: Registry[Fault] = Registry("fault", "holdfast.faults")
