"""The laws of a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from holdfast.execution.condition import Fault, Flips, Population
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import derive
from holdfast.testing.contract import require

SEEDS = 8
PASSES = 6


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
    require(same_flips(drawn, fault.flips(population, seed)), fault, "the same seed must give the same flips")
    sites = [item.site for item in drawn]
    require(len(set(sites)) == len(sites), fault, "gives one entry per site")
    require(set(sites) <= set(population.sites), fault, "stays within the population")
    for item in drawn:
        check_flips(fault, item)
    if (in_pass := getattr(fault, "in_pass", None)) is not None:
        for passed in range(PASSES):
            now = in_pass(population, seed, passed)
            require(same_flips(now, in_pass(population, seed, passed)), fault, "a pass must always meet the same flips")
            for item in now:
                check_flips(fault, item)


def check_flips(fault: object, item: Flips) -> None:
    """Check the changes of one site that ``fault`` gave.

    Raises:
        ContractBroken: the first law that does not hold.
    """
    index, width = item.index, item.site.bits
    columns = [column for column in (item.mask, item.rise, item.fall) if column is not None]
    require(index.dtype == torch.int64 and index.dim() == 1, fault, "positions are int64, shape (n,)")
    for column in columns:
        require(column.dtype == torch.int64 and column.shape == index.shape, fault, "masks are int64, one per position")
        above = column >> width if width < 64 else torch.zeros_like(column)
        require(not above.any(), fault, f"masks stay within the {width} bits of {item.site.address}")
    inside = ((index >= 0) & (index < item.site.numel)).all()
    require(bool(inside), fault, f"positions lie within {item.site.address}")
    require(len(index.unique()) == len(index), fault, "each element is named at most once")
    named = torch.stack(columns)
    _check_rewrite(fault, item)
    require(
        item.rewrite is not None or bool((named != 0).any(0).all()),
        fault,
        "an element is named only if a bit of it changes",
    )
    overlap = sum(int(bits.popcount(column).sum()) for column in columns)
    union = columns[0] if len(columns) == 1 else torch.stack(columns).sum(0)  # a sum is a union if nothing overlaps
    require(overlap == int(bits.popcount(union).sum()), fault, "no bit both flips and is set or cleared")


def same_flips(one: Sequence[Flips], other: Sequence[Flips]) -> bool:
    """Say whether two draws change the same bits."""
    return len(one) == len(other) and all(
        a.site == b.site
        and torch.equal(a.index, b.index)
        and all(_equal(getattr(a, name), getattr(b, name)) for name in ("mask", "rise", "fall"))
        and torch.equal(a.against(_held(a)), b.against(_held(b)))
        for a, b in zip(one, other, strict=True)
    )


def _check_rewrite(fault: object, item: Flips) -> None:
    if item.rewrite is None:
        return
    held = _held(item)
    mask = item.against(held)
    require(mask.dtype == torch.int64 and mask.shape == held.shape, fault, "a rule gives one int64 code per position")
    above = mask >> item.site.bits if item.site.bits < 64 else torch.zeros_like(mask)
    require(not above.any(), fault, f"codes stay within the {item.site.bits} bits of {item.site.address}")
    require(torch.equal(mask, item.against(held)), fault, "a rule gives the same codes each time")


def _held(item: Flips) -> torch.Tensor:
    """Return codes that an element of the site may hold: all kinds of them, by position."""
    scattered = (item.index + 1) * -0x61C8864680B583EB
    return scattered if item.site.bits == 64 else scattered & ((1 << item.site.bits) - 1)


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _global_state() -> tuple[bytes, bytes]:
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    return torch.get_rng_state().numpy().tobytes(), repr(numpy_state["state"]).encode()
