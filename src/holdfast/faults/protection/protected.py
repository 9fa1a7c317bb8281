"""A fault behind a protection: what memory errors leave after the decoder has read the memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, OnAnotherLaw, Population, faults
from holdfast.faults.protection.addresses import addresses_of
from holdfast.faults.protection.protocol import Decoded, Protection, Raw, all_elements, protections
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive


@faults.register("protected")
@dataclass(frozen=True, kw_only=True)
class Protected(OnAnotherLaw):
    """The errors of ``fault`` in a memory that is guarded ``by`` a code, as the model reads them.

    The data bits fail exactly as they do under ``fault`` alone with the same seed, so two protections, or none, meet
    the same errors. The check bits are memory of their own and fail by the same law, drawn apart: a law of a fixed
    number of events, such as ``bit-flip``, therefore strikes the data once and the check memory once, unless
    ``check_bits`` is ``safe``. Protections nest: the inner one reads first.

    As a specification, ``protected:by=secded,fault=bit-errors:rate=0.01``; a nested specification of several options
    stands in parentheses, ``protected:by=(radar:group=64,key=7),fault=bit-errors:rate=0.01``.
    """

    fault: Fault | str  # or its specification
    by: Protection | str  # or its specification
    check_bits: Literal["fail", "safe"] = "fail"  # safe: they live in memory without errors

    def __post_init__(self) -> None:
        if self.check_bits not in ("fail", "safe"):
            raise InvalidConfig(f"check bits cannot {self.check_bits!r}", hint="fail or safe")
        _ = self.law, self.protection  # what cannot be built is refused here, not at the first draw

    @functools.cached_property
    def law(self) -> Fault:
        """The fault of the bare memory."""
        return faults.build(self.fault) if isinstance(self.fault, str) else self.fault

    @functools.cached_property
    def protection(self) -> Protection:
        """The protection."""
        return protections.build(self.by) if isinstance(self.by, str) else self.by

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return what is left of the errors of ``seed``, one entry per site where anything is.

        Raises:
            UnsupportedFormat: the protection cannot guard what a site stores.
            InvalidConfig: the answer depends on what is stored, and that is unknown here.
        """
        return [decoded.flips for _, decoded in self.read(population, seed) if decoded.flips is not None]

    def read(self, population: Population, seed: Seed) -> Iterator[tuple[Site, Decoded]]:
        """Yield each site that holds errors, in order, with what the decoder made of them."""
        for site in population.sites:
            self.protection.admit(site, functools.partial(population.codes, site))
        data = {item.site: item for item in self.law.flips(self._memory(population), seed)}
        guards = {site: check for site in population.sites if (check := self.protection.check_site(site)) is not None}
        of_guard = {item.site: item for item in self._check_flips(population, guards, seed)}
        for site in population.sites:
            own, guard = data.get(site), of_guard.get(guards[site]) if site in guards else None
            if own is not None or guard is not None:
                yield site, self.protection.decode(site, self._raw(population, site, own, guard))

    def _raw(self, population: Population, site: Site, data: Flips | None, check: Flips | None) -> Raw:
        codes = functools.partial(population.codes, site)
        return Raw(
            data=addresses_of(data, lambda index: self.protection.data_codes(site, codes(), index)),
            check=addresses_of(check, lambda index: self.protection.check_codes(site, codes(), index)),
            codes=codes,
        )

    def _memory(self, population: Population) -> Population:
        """Return the population as memory holds it, for a law that depends on what is stored."""
        return Population(population.sites, _reader(population, self.protection.data_codes))

    def _check_flips(self, population: Population, guards: dict[Site, Site], seed: Seed) -> list[Flips]:
        if self.check_bits == "safe" or not any(check.population for check in guards.values()):
            return []
        owners = {check: site for site, check in guards.items()}
        read = _reader(population, self.protection.check_codes)
        memory = Population(tuple(owners), (lambda check: read(owners[check], check)) if read is not None else None)
        # a seed of its own: a law whose draw depends on addresses alone would strike data and check bits alike
        return list(self.law.flips(memory, derive(seed, "check bits")))


def _reader(population: Population, held: Callable[[Site, Tensor, Tensor], Tensor]) -> Callable[..., Tensor] | None:
    """Return what reads all of a memory: the elements of ``where`` (the site itself, or its check site)."""
    if population.reader is None:
        return None

    def read(site: Site, where: Site | None = None) -> Tensor:
        return held(site, population.codes(site), all_elements(where or site))

    return read
