"""The laws of a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from holdfast.execution.condition import Fault, Flips, Population
from holdfast.models.site import Site
from holdfast.seeds import derive
from holdfast.testing.contract import require

SEEDS = 8


def check_fault(fault: Fault) -> None:
    """Check every law of :class:`holdfast.execution.Fault` on populations of several widths.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    require(isinstance(fault, Fault), fault, "is no Fault")
    parameters = getattr(type(fault), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, fault, "a fault is a frozen dataclass")
    for population in _populations():
        for number in range(SEEDS):
            _check_realisation(fault, population, number)


def _populations() -> Iterator[Population]:
    narrow = Site("weights", "narrow", (5, 3), "rquant4", 4)
    byte = Site("weights", "byte", (40,), "int8", 8)
    single = Site("activations", "single", (2, 3, 3), "fp32", 32)
    double = Site("buffers", "double", (3,), "fp64", 64)
    yield Population((byte,))
    yield Population((narrow, single, double, byte))


def _check_realisation(fault: Fault, population: Population, number: int) -> None:
    seed = derive(number, "check-fault")
    before = _global_state()
    drawn = fault.flips(population, seed)
    require(_global_state() == before, fault, "must draw from its seed alone, not from a global generator")
    require(_same(drawn, fault.flips(population, seed)), fault, "the same seed must give the same flips")
    sites = [item.site for item in drawn]
    require(len(set(sites)) == len(sites), fault, "gives one entry per site")
    require(set(sites) <= set(population.sites), fault, "stays within the population")
    for item in drawn:
        _check_flips(fault, item)


def _check_flips(fault: Fault, item: Flips) -> None:
    index, mask, width = item.index, item.mask, item.site.bits
    require(index.dtype == mask.dtype == torch.int64, fault, "positions and masks are int64")
    require(index.dim() == 1 and index.shape == mask.shape, fault, "gives one mask per position")
    inside = ((index >= 0) & (index < item.site.numel)).all()
    require(bool(inside), fault, f"positions lie within {item.site.address}")
    require(len(index.unique()) == len(index), fault, "each element is named at most once")
    require(bool((mask != 0).all()), fault, "an element is named only if a bit of it flips")
    above = mask >> width if width < 64 else torch.zeros_like(mask)
    require(not above.any(), fault, f"masks stay within the {width} bits of {item.site.address}")


def _same(one: Sequence[Flips], other: Sequence[Flips]) -> bool:
    return len(one) == len(other) and all(
        a.site == b.site and torch.equal(a.index, b.index) and torch.equal(a.mask, b.mask)
        for a, b in zip(one, other, strict=True)
    )


def _global_state() -> tuple[bytes, bytes]:
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    return torch.get_rng_state().numpy().tobytes(), repr(numpy_state["state"]).encode()
