"""The cost of a chip: one percent of bit errors drawn and XORed into eight-bit weights.

The peer draws a uniform number for every bit, compares it with the rate and packs the result into masks, as the
released code of Stutz et al. does (here in chunks, so that it needs no 32 bytes for each weight). It draws what ours
draws and nothing less: its chips, too, persist over rates. ``HOLDFAST_BENCH_WEIGHTS=100000000`` sets another size.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import _harness
from holdfast.execution.condition import Population
from holdfast.faults import BitErrors
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import derive

WEIGHTS = int(os.environ.get("HOLDFAST_BENCH_WEIGHTS", "20000000"))
RATE = 0.01
CHUNK = 2**20  # weights; 32 MiB of uniform numbers at a time
_PLACES = torch.arange(8, dtype=torch.uint8)


def measure() -> _harness.Result:
    """Time both on the same memory, on one core; both must flip the number of bits that the rate asks for."""
    torch.set_num_threads(1)
    memory = torch.zeros(WEIGHTS, dtype=torch.uint8)
    ours, peer = _ours(memory), _naive(memory)
    for inject in (ours, peer):
        _check(memory, inject)
    return _harness.summarise(
        f"{RATE:.0%} bit errors in {WEIGHTS / 1e6:g} million uint8 weights cost less than one random number per bit",
        _harness.paired(ours, peer, repeats=5),
        peer_name="uniform number per bit",
    )


def _ours(memory: Tensor) -> Callable[[], None]:
    population = Population((Site("weights", "memory", tuple(memory.shape), "rquant8", 8),))

    def inject() -> None:
        for item in BitErrors(rate=RATE).flips(population, derive(0)):
            bits.xor_(memory, item.index, item.mask)

    return inject


def _naive(memory: Tensor) -> Callable[[], None]:
    generator = derive(0).torch()

    def inject() -> None:
        for part in memory.split(CHUNK):
            hit = torch.rand(len(part), 8, generator=generator) < RATE
            part.bitwise_xor_((hit.to(torch.uint8) << _PLACES).sum(-1, dtype=torch.uint8))

    return inject


def _check(memory: Tensor, inject: Callable[[], None]) -> None:
    memory.zero_()
    inject()
    flipped = sum(int(bits.popcount(part).sum()) for part in memory.split(CHUNK))
    expected = memory.numel() * 8 * RATE
    if abs(flipped - expected) > 6 * expected**0.5:
        raise SystemExit(f"{flipped} bits flipped where about {expected:.0f} were due")


if __name__ == "__main__":
    _harness.main(measure)
