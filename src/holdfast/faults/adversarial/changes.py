"""Between single bits, (element, bit), and the flips of a site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from holdfast.execution.condition import Flips
from holdfast.models.site import Site
from holdfast.numerics import bits

Place = tuple[int, int]  # flat element, bit


def flips_of(site: Site, places: Iterable[Place]) -> Flips:
    """Return (element, bit) pairs of one site, each at most once, as flips with ascending elements."""
    masks: dict[int, int] = {}
    for element, bit in places:
        masks[element] = masks.get(element, 0) | (1 << bit)
    elements = sorted(masks)
    signed = [masks[element] - (masks[element] >> 63 << 64) for element in elements]  # bit 63 is the sign of int64
    return Flips(site, torch.tensor(elements, dtype=torch.int64), torch.tensor(signed, dtype=torch.int64))


def places_of(flips: Flips) -> tuple[Tensor, Tensor]:
    """Return (element, bit), int64 (n,) each, of every flipped bit, in order."""
    planes = torch.arange(flips.site.bits, device=flips.mask.device)
    row, bit = ((flips.mask.unsqueeze(1) >> planes) & 1).nonzero(as_tuple=True)
    return flips.index[row], bit


def bits_of(flips: Sequence[Flips]) -> int:
    """Return the number of flipped bits."""
    return sum(int(bits.popcount(item.mask).sum()) for item in flips)


def united(one: Flips, other: Flips) -> Flips:
    """Return the flips of both in one site, elements ascending; a bit that both flip is flipped back."""
    index, inverse = torch.cat([one.index, other.index]).unique(return_inverse=True)
    mask = torch.zeros_like(index)
    mask[inverse[: len(one.index)]] = one.mask
    mask[inverse[len(one.index) :]] ^= other.mask
    changed = mask != 0
    return Flips(one.site, index[changed], mask[changed])
