"""Sensitivity: which sites, bits and fields of the number format a model's robust error comes from.

Every group meets the errors that the whole model would meet on the same chip, cut down to the group's bits. Groups are
therefore compared on common random numbers, and their errors are subsets of one another where the groups are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from holdfast._registry import unknown
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, OnAnotherLaw, Population, require_untimed
from holdfast.execution.fit import require_fit
from holdfast.execution.injection import population_of
from holdfast.execution.over_chips import RobustError
from holdfast.execution.robustness import robust_error
from holdfast.execution.run import Progress
from holdfast.execution.statistics import MeanEstimate
from holdfast.models.site import Site
from holdfast.numerics.formats import formats
from holdfast.seeds import Seed

Masks = dict[str, int]  # address of a site -> which bits of each element belong to a group

_QPARAM = re.compile(r"(?:^|[._/#])\w*?(scale|zero)s?(?:_inv|_points?)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restricted(OnAnotherLaw):
    """The errors of ``fault`` that fall on certain bits of certain sites; all others do not happen.

    Attributes:
        fault: draws over the whole population, so that a chip stays the same chip.
        bits: (address of a site, mask of its bits), for the sites that may fail.
    """

    fault: Fault
    bits: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        require_untimed(self.fault, "a division of bits into groups")

    @property
    def law(self) -> Fault:
        """The law of the whole population."""
        return self.fault

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return what ``fault`` draws, less what lies outside."""
        masks = dict(self.bits)
        drawn = (item for item in self.fault.flips(population, seed) if item.site.address in masks)
        cut = (_within(item, masks[item.site.address]) for item in drawn)
        return [item for item in cut if len(item.index)]


def _within(item: Flips, mask: int) -> Flips:
    """Return the changes of bits in ``mask`` only, an unsigned number."""
    if item.rewrite is not None:
        if mask == (1 << item.site.bits) - 1:
            return item  # all its bits may fail
        raise InvalidConfig("a law that rewrites values cannot be kept to some of their bits", hint="flip bits instead")
    signed = mask - 2**64 if mask >= 2**63 else mask
    keep = item.touched & signed != 0
    rise, fall = (None if part is None else part[keep] & signed for part in (item.rise, item.fall))
    return Flips(item.site, item.index[keep], item.mask[keep] & signed, rise, fall)


def groups(population: Population, by: str) -> dict[str, Masks]:
    """Return the groups of bits that ``by`` makes of a population, by name, in order of first occurrence.

    Args:
        population: some sites.
        by: ``site``; ``role``: sites whose names differ in numbers only, such as one projection of all layers;
            ``bit``: position in the element, 0 the least significant; ``field``: sign, exponent, mantissa, magnitude,
            and those of scales and zero points apart.

    Raises:
        UnknownName: another division.
    """
    if by not in _NAMES:
        raise unknown("division into groups", by, _NAMES)
    found: dict[str, Masks] = {}
    for site in population.sites:
        for bit, name in enumerate(_NAMES[by](site)):
            masks = found.setdefault(name, {})
            masks[site.address] = masks.get(site.address, 0) | 1 << bit
    return found


def _fields(site: Site) -> Sequence[str]:
    own = formats.build(site.format).fields()
    kind = _QPARAM.search(site.name)
    return own if kind is None else [f"{kind[1]}: {field}" for field in own]


def _short(site: Site) -> str:
    """Return the kind of format and its width: what a range or a granularity does to the values is left out."""
    kind, options, _ = site.format.partition(":")
    return f"{kind}-{site.bits}" if options else kind


def _roles(site: Site) -> list[str]:
    return [re.sub(r"(?<=[._/:])\d+(?=[._/]|$)", "*", site.address)] * site.bits


_NAMES: dict[str, Callable[[Site], Sequence[str]]] = {
    "site": lambda site: [site.address] * site.bits,
    "role": _roles,
    "bit": lambda site: [f"{_short(site)} bit {bit}" for bit in range(site.bits)],
    "field": _fields,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Robust error when only one group of bits can fail.

    Attributes:
        group: its name.
        bits: how many there are.
        error: robust error on the common chips.
        increase: error of each chip minus the clean error, mean and t interval.
    """

    group: str
    bits: int
    error: RobustError
    increase: MeanEstimate

    @property
    def per_flip(self) -> float | None:
        """Increase of the error per flipped bit; None where none flipped, or where nobody counted."""
        flips = [count for count in self.error.flips if count is not None]
        return self.increase.value * len(flips) / sum(flips) if sum(flips) else None


def sensitivity(
    model: nn.Module,
    data: Dataset,
    fault: Fault,
    *,
    by: str = "site",
    at: str = "weights",
    progress: Progress | None = None,
    name: str = "sensitivity",
    **options: Any,
) -> list[Sensitivity]:
    """Measure the robust error of every group of bits by itself, on the same chips.

    Args:
        model: any classifier.
        data: labelled images.
        fault: the law that draws a chip.
        by: see :func:`groups`.
        at: selection of sites that may fail at all.
        progress: called with (groups done, all groups) after each.
        name: prefix of the measurements in the store.
        options: of :func:`robust_error`: ``chips``, ``half_width``, ``seed``, ``store``, ``executor``, ...

    Raises:
        UnknownName: no such division; and what :func:`robust_error` raises.
    """
    require_fit(model, data)
    population = population_of(model, at, data.example)
    parts, found = groups(population, by), list[Sensitivity]()
    for group, masks in parts.items():
        law = Restricted(fault=fault, bits=tuple(masks.items()))
        error = robust_error(model, data, law, at=at, name=f"{name}/{by}={group}", **options)
        found.append(_of(group, population, masks, error))
        if progress is not None:
            progress(len(found), len(parts))
    return found


def _of(group: str, population: Population, masks: Masks, error: RobustError) -> Sensitivity:
    bits = sum(site.numel * masks.get(site.address, 0).bit_count() for site in population.sites)
    changes = [value - error.clean.value for value in error.per_chip]
    increase = MeanEstimate.student_t(changes, error.confidence, least=-error.clean.value, most=1 - error.clean.value)
    return Sensitivity(group=group, bits=bits, error=error, increase=increase)
