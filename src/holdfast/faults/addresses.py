"""Between bit addresses of a population and the changes of its sites, vectorised and in int64 throughout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population

NOTHING = np.empty(0, np.int64)
_COLUMNS = ("mask", "rise", "fall")


def changes_at(
    population: Population, *, flip: np.ndarray = NOTHING, rise: np.ndarray = NOTHING, fall: np.ndarray = NOTHING
) -> list[Flips]:
    """Return the changes of the bits at the given addresses, one entry per site that has any, sites in order.

    Args:
        population: whose addresses they are.
        flip: int64, shape (n,), in any order; bits that flip whatever they hold.
        rise: int64, shape (n,); bits that become one.
        fall: int64, shape (n,); bits that become zero. No address may stand in two of the three.

    Raises:
        InvalidConfig: an address outside 0 .. bits-1.
    """
    address = np.concatenate([flip, rise, fall])
    column = np.repeat(np.arange(3), [len(flip), len(rise), len(fall)])
    if not len(address):
        return []
    order = np.argsort(address, kind="stable")  # merges the runs that laws deliver, ten times faster
    address, column = address[order], column[order]
    if address[0] < 0 or address[-1] >= population.bits:
        raise InvalidConfig(f"bits {address[0]} .. {address[-1]} are not all inside a population of {population.bits}")
    starts = np.array(population.starts, np.int64)
    widths = np.array([site.bits for site in population.sites], np.int64)
    # a site without bits starts where the next one does, and the last of equal starts is the one with bits
    site = np.searchsorted(starts, address, side="right") - 1
    element, bit = np.divmod(address - starts[site], widths[site])
    firsts = np.flatnonzero((np.diff(site, prepend=-1) != 0) | (np.diff(element, prepend=-1) != 0))
    masks = [np.bitwise_or.reduceat(np.where(column == k, np.int64(1) << bit, 0), firsts) for k in range(3)]
    return _by_site(population, site[firsts], element[firsts], masks)


def _by_site(population: Population, site: np.ndarray, element: np.ndarray, masks: list[np.ndarray]) -> list[Flips]:
    numbers, begins = np.unique(site, return_index=True)
    ends = [*begins[1:].tolist(), len(site)]
    result = []
    for number, begin, end in zip(numbers.tolist(), begins.tolist(), ends, strict=True):
        flip, rise, fall = (torch.from_numpy(mask[begin:end].copy()) for mask in masks)
        index = torch.from_numpy(element[begin:end].copy())
        where = population.sites[number]
        result.append(Flips(where, index, flip, rise if rise.any() else None, fall if fall.any() else None))
    return result


def addresses_of(population: Population, changes: Sequence[Flips]) -> dict[str, np.ndarray]:
    """Return the addresses that ``changes`` name, int64 and ascending, by column: ``mask``, ``rise``, ``fall``.

    Raises:
        InvalidConfig: a rule rewrites values, and so names no bits.
    """
    starts = dict(zip(population.sites, population.starts, strict=True))
    found: dict[str, list[np.ndarray]] = {name: [NOTHING] for name in _COLUMNS}
    for item in changes:
        if item.rewrite is not None:
            raise InvalidConfig("a rule that rewrites values names no bits", hint="ask Flips.against what it flips")
        for name in _COLUMNS:
            mask = getattr(item, name)
            if mask is not None:
                found[name].append(starts[item.site] + _bits(item.index.numpy(), mask.numpy(), item.site.bits))
    return {name: np.sort(np.concatenate(parts)) for name, parts in found.items()}


def _bits(index: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    octets = mask.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : -(-width // 8)]
    row, bit = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
    return index[row] * width + bit
