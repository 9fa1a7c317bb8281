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
    if flips.rise is not None or flips.fall is not None:
        mask = flips.against(held(flips.index).cpu())
    return expand(flips.site, flips.index.numpy(), mask.numpy())


def expand(site: Site, index: np.ndarray, mask: np.ndarray) -> Addresses:
    """Return the addresses of all set bits of ``mask`` (int64, (n,)) in the elements ``index`` (int64, (n,))."""
    octets = np.ascontiguousarray(mask.astype("<i8")).view(np.uint8).reshape(-1, 8)
    row, bit = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little", count=site.bits))
    found = index[row] * site.bits + bit
    return found if bool(np.all(np.diff(found) > 0)) else np.sort(found)


def flips_at(site: Site, flipped: Addresses, fallen: Addresses = NONE) -> Flips | None:
    """Return the changes that flip the bits at ``flipped`` and clear those at ``fallen``; the two must not overlap."""
    if not len(flipped) and not len(fallen):
        return None
    element = np.unique(np.concatenate([flipped // site.bits, fallen // site.bits]))
    mask = _masks(site, element, flipped)
    fall = _masks(site, element, fallen) if len(fallen) else None
    return Flips(site, torch.from_numpy(element), mask, fall=fall)


def _masks(site: Site, element: np.ndarray, addresses: Addresses) -> Tensor:
    mask = np.zeros(len(element), np.int64)
    where, bit = np.divmod(addresses, site.bits)
    np.bitwise_or.at(mask, np.searchsorted(element, where), np.int64(1) << bit)
    return torch.from_numpy(mask)


def either(one: Addresses, other: Addresses) -> Addresses:
    """Return the addresses in exactly one of two sets: an error that is flipped back is none."""
    return np.setxor1d(one, other, assume_unique=True)
