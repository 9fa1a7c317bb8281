"""Sampling laws: which bit a fault hits, as weights over one exact population.

Every law spreads the fault over the sites and, within a site, evenly over its bits. A law is therefore one mass per
site, and a table drawn under one law can be weighted to another: the masses are part of the plan.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.models.site import Site
from holdfast.seeds import Seed

Macs = Mapping[str, int]  # address of a site -> multiply-accumulates of the operation that computes or reads it

_SMALL = 1 << 16  # permutations up to here are kept as a table
_ROUNDS = 8


def _by_bit(site: Site, macs: Macs) -> float:
    return site.population


def _by_layer(site: Site, macs: Macs) -> float:
    return 1.0 if site.population else 0.0


def _by_neuron(site: Site, macs: Macs) -> float:
    return site.numel


def _by_macs(site: Site, macs: Macs) -> float:
    return macs.get(site.address, 0)


LAWS: dict[str, Callable[[Site, Macs], float]] = {
    "bit-uniform": _by_bit,  # what radiation does to memory: a site fails as often as it is large
    "layer-uniform": _by_layer,  # what PyTorchFI draws: a site first, then a place in it
    "neuron-uniform": _by_neuron,  # every value alike, however many bits store it
    "mac-weighted": _by_macs,  # what an upset of the arithmetic does: a site fails as often as it is computed with
}


def masses(sites: Sequence[Site], law: str, macs: Macs | None = None) -> list[float]:
    """Return the probability of each site under ``law``; they sum to one.

    Args:
        sites: the population.
        law: one of :data:`LAWS`.
        macs: for ``mac-weighted``, see :func:`holdfast.execution.sampling_macs.count_macs`.

    Raises:
        UnknownName: no such law.
        InvalidConfig: no site has any weight under it.
    """
    if law not in LAWS:
        raise unknown("sampling law", law, LAWS)
    weights = [float(LAWS[law](site, macs or {})) for site in sites]
    total = math.fsum(weights)
    if not total:
        raise InvalidConfig(
            f"under {law} no selected site has any weight", hint="select sites that compute, or sample bit-uniform"
        )
    return [weight / total for weight in weights]


class Permutation:
    """A random order of 0 .. size-1, of which any place can be asked without holding the rest.

    Small ones are shuffled (Fisher-Yates), large ones are a keyed Feistel network that walks until it is back inside
    (Black & Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """

    def __init__(self, size: int, seed: Seed) -> None:
        if size < 1:
            raise InvalidConfig("there is nothing to order")
        self.size, self._seed = size, seed
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._key = seed.key.to_bytes(16, "big")

    @cached_property
    def _table(self) -> np.ndarray:
        return self._seed.numpy().permutation(self.size)

    def __getitem__(self, place: int) -> int:
        """Return what stands at ``place``, 0 .. size-1.

        Raises:
            InvalidConfig: outside.
        """
        if not 0 <= place < self.size:
            raise InvalidConfig(f"place {place} is outside an order of {self.size}")
        if self.size <= _SMALL:
            return int(self._table[place])
        place = self._encrypt(place)
        while place >= self.size:
            place = self._encrypt(place)
        return place

    def _encrypt(self, value: int) -> int:
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (self._mixed(turn, right) & mask)
        return left << self._half | right

    def _mixed(self, turn: int, value: int) -> int:
        text = turn.to_bytes(1, "big") + value.to_bytes(16, "big")
        return int.from_bytes(hashlib.blake2b(text, key=self._key, digest_size=16).digest(), "big")
