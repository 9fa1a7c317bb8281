"""Bit addresses of one site: from sparse flips to positions and back.

The address of bit ``b`` of flat element ``e`` is ``e * site.bits + b``: codes narrower than a byte are packed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from holdfast.execution.condition import Flips
from holdfast.models.site import Site

Addresses = np.ndarray
"""int64, ascending, unique."""

NONE: Addresses = np.empty(0, np.int64)


def addresses_of(flips: Flips | None, held: Callable[[Tensor], Tensor]) -> Addresses:
    """Return the addresses of the bits that really change.

    ``held`` returns what the memory holds at flat elements. It is only asked where bits are set or cleared: then a
    change depends on what the bit holds.
    """
    if flips is None or len(flips.index) == 0:
        return NONE
    mask = flips.mask
    if flips.rise is not None or flips.fall is not None or flips.rewrite is not None:
        mask = flips.against(held(flips.index).cpu())
    return expand(flips.site, flips.index.numpy(), mask.numpy())


def expand(site: Site, index: np.ndarray, mask: np.ndarray) -> Addresses:
    """Return the addresses of all set bits of ``mask`` (int64, (n,)) in the elements ``index`` (int64, (n,))."""
    octets = np.ascontiguousarray(mask.astype("<i8")).view(np.uint8).reshape(-1, 8)
    row, bit = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little", count=site.bits))
    found = index[row] * site.bits + bit
    return found if bool(np.all(np.diff(found) > 0)) else np.sort(found)


Masks = tuple[np.ndarray, np.ndarray]
"""Elements, int64, ascending and unique, and a mask for each, int64."""


def masks_at(site: Site, addresses: Addresses) -> Masks:
    """Return ascending bit addresses as elements and masks."""
    element, bit = np.divmod(addresses, site.bits)
    firsts = np.flatnonzero(np.diff(element, prepend=-1))
    if not len(firsts):
        return NONE, NONE
    return element[firsts], np.bitwise_or.reduceat(np.int64(1) << bit, firsts)


def flips_at(site: Site, flipped: Addresses, cleared: Masks = (NONE, NONE)) -> Flips | None:
    """Return the changes that flip the bits at ``flipped`` and clear those of ``cleared``; the two must not overlap."""
    element, mask = masks_at(site, flipped)
    if not len(cleared[0]):
        return Flips(site, torch.from_numpy(element), torch.from_numpy(mask)) if len(element) else None
    every = runs(np.sort(np.concatenate([element, cleared[0]])))[0]
    columns = [_spread(every, *item) for item in ((element, mask), cleared)]
    return Flips(site, torch.from_numpy(every), columns[0], fall=columns[1])


def _spread(every: np.ndarray, element: np.ndarray, mask: np.ndarray) -> Tensor:
    column = np.zeros(len(every), np.int64)
    column[np.searchsorted(every, element)] = mask
    return torch.from_numpy(column)


def runs(ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different values of an ascending array, and how often each stands there."""
    firsts = np.flatnonzero(np.diff(ascending, prepend=ascending[:1] - 1))
    return ascending[firsts], np.diff(firsts, append=len(ascending))


def whole(site: Site, element: np.ndarray) -> Masks:
    """Return all bits of ascending elements."""
    return element, np.full(len(element), -1 if site.bits == 64 else (1 << site.bits) - 1, np.int64)


def either(one: Addresses, other: Addresses) -> Addresses:
    """Return the addresses in exactly one of two sets: an error that is flipped back is none."""
    return np.setxor1d(one, other, assume_unique=True)
