"""Drawing trials: case j of a stratum is a function of the seed, the stratum and j, wherever and whenever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, Population
from holdfast.execution.plan import Trial, draw_trial
from holdfast.execution.sampling import Permutation
from holdfast.execution.strata import Stratum
from holdfast.models.site import Site
from holdfast.seeds import derive


@runtime_checkable
class SingleBit(Protocol):
    """A fault that is one bit, anywhere: it can be drawn from strata, weighted, and tried exhaustively."""

    def place(self, site: Site, element: int, bit: int) -> Flips:
        """Return the fault in this bit."""
        ...


class Draws(Protocol):
    """Trials by stratum and place."""

    def trial(self, stratum: int, place: int, number: int) -> Trial:
        """Return the case at ``place`` of ``stratum`` as trial ``number``."""
        ...


class StrataDraws:
    """Single bits from strata: without replacement where all bits of a stratum are equally likely.

    Args:
        fault: of one bit.
        strata: of the population.
        inputs: how many there are; a case is a bit and an input.
        seed: of the campaign.
        in_order: draw the cases of a stratum in their order, as an exhaustive campaign does.
    """

    def __init__(
        self, fault: SingleBit, strata: Sequence[Stratum], inputs: int, seed: int, *, in_order: bool = False
    ) -> None:
        self._fault, self._strata, self._inputs = fault, tuple(strata), inputs
        self._seeds = [derive(seed, "stratum", stratum.label) for stratum in strata]
        self._in_order = in_order
        self._orders: dict[int, Permutation] = {}

    def trial(self, stratum: int, place: int, number: int) -> Trial:
        """Return the case at ``place`` of ``stratum`` as trial ``number``."""
        own = self._strata[stratum]
        if own.even:
            bit, image = divmod(self._ordered(stratum, place), self._inputs)
            cell, inside = own.cell_of(bit)
        else:
            draw = derive(self._seeds[stratum], "draw", place)
            cell = own.cell_at(derive(draw, "site").key / 2**128)
            inside, image = divmod(derive(draw, "case").key % (cell.bits * self._inputs), self._inputs)
        element, position = cell.locate(inside)
        return Trial(number, (self._fault.place(cell.site, element, position),), image)

    def _ordered(self, stratum: int, place: int) -> int:
        if self._in_order:
            return place
        if stratum not in self._orders:
            size = self._strata[stratum].bits * self._inputs
            self._orders[stratum] = Permutation(size, self._seeds[stratum])
        return self._orders[stratum][place]


class LawDraws:
    """Faults as their own law draws them, over all of the population: one stratum."""

    def __init__(self, fault: Fault, population: Population, inputs: int, seed: int, most: int | None = None) -> None:
        self._fault, self._population, self._inputs, self._seed = fault, population, inputs, seed
        listed: Callable[[Population, int, int | None], list[Trial]] | None = getattr(fault, "listed_trials", None)
        self._listed = None if listed is None else listed(population, inputs, most)

    def trial(self, stratum: int, place: int, number: int) -> Trial:
        """Return trial ``number``."""
        if self._listed is not None:
            return self._listed[number]
        return draw_trial(self._fault, self._population, self._inputs, number, self._seed)


class SiteDraws:
    """Faults that stay in one site: the site by its mass, then as the law draws them in it."""

    def __init__(self, fault: Fault, population: Population, masses: Sequence[float], inputs: int, seed: int) -> None:
        if not getattr(fault, "one_site", False) and not isinstance(fault, SingleBit):
            raise InvalidConfig(
                f"{type(fault).__name__} may touch several sites at once, so it cannot be weighted by site",
                hint="leave sampling='bit-uniform', which draws it as its law says",
            )
        self._fault, self._inputs, self._seed = fault, inputs, seed
        sites = population.sites
        self._parts = [(mass, Population((site,), population.reader)) for site, mass in zip(sites, masses, strict=True)]

    def trial(self, stratum: int, place: int, number: int) -> Trial:
        """Return trial ``number``."""
        share = derive(self._seed, "trial", number, "site").key / 2**128
        return draw_trial(self._fault, self._pick(share), self._inputs, number, self._seed)

    def _pick(self, share: float) -> Population:
        end, chosen = 0.0, self._parts[0][1]
        for mass, population in self._parts:
            if mass:
                end, chosen = end + mass, population
            if share < end:
                break
        return chosen


def draw_round(draws: Draws, counts: Sequence[int], before: Sequence[int], first: int) -> list[Trial]:
    """Return a round: ``counts`` trials of each stratum after those drawn ``before``, numbered from ``first``."""
    found: list[Trial] = []
    for stratum, (count, start) in enumerate(zip(counts, before, strict=True)):
        next_number = first + len(found)
        found += [draws.trial(stratum, start + k, next_number + k) for k in range(count)]
    return found
