"""The single bit flip, the classic soft error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.models.site import Site
from holdfast.numerics.bits import one_bit
from holdfast.seeds import Seed


@faults.register("bit-flip")
@dataclass(frozen=True, slots=True, kw_only=True)
class BitFlip:
    """Exactly one flipped bit, uniform over all bits of the population."""

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the one flip that ``seed`` draws.

        Raises:
            InvalidConfig: the population has no bits.
        """
        if not population.bits:
            raise InvalidConfig("there is no bit to flip in an empty population", hint="select at least one site")
        site, element, bit = population.locate(seed.key % population.bits)
        return [self.place(site, element, bit)]

    def place(self, site: Site, element: int, bit: int) -> Flips:
        """Return the flip of one given bit: what a planner draws from strata, or tries one by one."""
        return Flips(site, torch.tensor([element]), one_bit(torch.tensor([bit])))
