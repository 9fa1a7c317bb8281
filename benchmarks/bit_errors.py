"""The cost of a chip: one percent of bit errors put into eight-bit weights, in place.

The peer draws a uniform number for every bit, compares it with the rate and packs the result into masks, as the
released code of Stutz et al. does (here in chunks, so that it needs no 32 bytes for each weight). It draws what ours
draws and nothing less: its chips, too, persist over rates. ``HOLDFAST_BENCH_WEIGHTS=20000000`` sets another size.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import _harness
from holdfast.faults.bit_errors import xor_chip_
from holdfast.numerics import bits
from holdfast.seeds import derive

WEIGHTS = int(os.environ.get("HOLDFAST_BENCH_WEIGHTS", "100000000"))
CHUNK = 2**20  # weights; 32 MiB of uniform numbers at a time
_PLACES = torch.arange(8, dtype=torch.uint8)


def measure() -> _harness.Result:
    """Put one percent of errors into the same memory both ways, on one core."""
    return compare(0.01, repeats=5)


def compare(rate: float, *, repeats: int) -> _harness.Result:
    """Time both at ``rate``; both must flip the number of bits that the rate asks for."""
    torch.set_num_threads(1)
    memory = torch.zeros(WEIGHTS, dtype=torch.uint8)
    ours, peer = _ours(memory, rate), _naive(memory, rate)
    for inject in (ours, peer):
        _check(memory, inject, rate)
    return _harness.summarise(
        f"{rate:.2%} bit errors in {WEIGHTS / 1e6:g} million uint8 weights, against one random number per bit",
        _harness.paired(ours, peer, repeats=repeats),
        peer_name="uniform number per bit",
    )


def _ours(memory: Tensor, rate: float) -> Callable[[], None]:
    octets, seed = memory.numpy(), derive(0)

    def inject() -> None:
        xor_chip_(octets, rate, seed)

    return inject


def _naive(memory: Tensor, rate: float) -> Callable[[], None]:
    generator = derive(0).torch()

    def inject() -> None:
        for part in memory.split(CHUNK):
            hit = torch.rand(len(part), 8, generator=generator) < rate
            part.bitwise_xor_((hit.to(torch.uint8) << _PLACES).sum(-1, dtype=torch.uint8))

    return inject


def _check(memory: Tensor, inject: Callable[[], None], rate: float) -> None:
    memory.zero_()
    inject()
    flipped = sum(int(bits.popcount(part).sum()) for part in memory.split(CHUNK))
    expected = memory.numel() * 8 * rate
    if abs(flipped - expected) > 6 * expected**0.5:
        raise SystemExit(f"{flipped} bits flipped where about {expected:.0f} were due")


if __name__ == "__main__":
    _harness.main(measure)
