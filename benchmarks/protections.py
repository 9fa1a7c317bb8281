"""The cost of a protection: one chip decoded where it errs, against a decoder that reads all of the memory.

Both find what SECDED leaves of the same bit errors, and must agree to the bit. The peer is the natural vectorised
program: flip the bits, encode every received word again, and look where the check bits differ. A table follows for all
protections: what each leaves of 0.1 % and 1 % bit errors, beside what theory says, and what it costs.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import _harness
from holdfast.execution.condition import Population
from holdfast.faults import BitErrors, Protected
from holdfast.faults.protection import Secded, report
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import derive

WEIGHTS = int(os.environ.get("HOLDFAST_BENCH_WEIGHTS", "20000000"))
RATE = 1e-4
TABLE_WEIGHTS = 1_000_000
RATES = (0.001, 0.01)
PROTECTIONS = (
    "secded",
    "secded:on-detect=zero",
    "on-die-sec",
    "parity-zero",
    "chipkill",
    "radar",
    "in-place-ecc",
    "voting",
    "protect-bits:field=msb-2",
)


def measure() -> _harness.Result:
    """Time both on one memory, on one core."""
    torch.set_num_threads(1)
    population, codes = _memory(WEIGHTS)
    ours, peer = _sparse(population), _dense(population, codes)
    if not torch.equal(ours(), peer()):
        raise SystemExit("the two decoders disagree")
    return _harness.summarise(
        f"what SECDED leaves of {RATE:.2%} bit errors costs less than reading all {WEIGHTS / 1e6:g} million weights",
        _harness.paired(ours, peer, repeats=5),
        peer_name="syndrome of every word",
    )


def _memory(weights: int) -> tuple[Population, Tensor]:
    codes = torch.randint(-64, 64, (weights,), generator=derive(0, "codes").torch(), dtype=torch.int8)
    return Population((Site("weights", "memory", (weights,), "int8", 8),), lambda _: codes), codes


def _sparse(population: Population) -> Callable[[], Tensor]:
    fault = Protected(fault=BitErrors(rate=RATE), by=Secded())

    def read() -> Tensor:
        (item,) = fault.flips(population, derive(0))
        return torch.stack([item.index, item.mask])

    return read


def _dense(population: Population, codes: Tensor) -> Callable[[], Tensor]:
    by, (site,) = Secded(), population.sites
    guard = by.check_site(site)
    every = np.arange(guard.numel)
    stored = by.check_codes(site, codes, torch.from_numpy(every))

    def read() -> Tensor:
        received, check = codes.clone(), stored.clone()
        for item in BitErrors(rate=RATE).flips(population, derive(0)):
            bits.xor_(received, item.index, item.mask)
        for item in BitErrors(rate=RATE).flips(Population((guard,)), derive(derive(0), "check bits")):
            bits.xor_(check, item.index, item.mask)
        syndrome = by.check_codes(site, received, torch.from_numpy(every)) ^ check
        named = by.code.meaning[syndrome.numpy()]
        word = np.flatnonzero((named >= 0) & (named < by.code.data))
        place = named[word]
        bits.xor_(received, torch.from_numpy(8 * word + place // 8), torch.from_numpy(np.int64(1) << place % 8))
        mask = (received ^ codes).view(torch.uint8).to(torch.int64)
        index = torch.nonzero(mask).flatten()
        return torch.stack([index, mask[index]])

    return read


def table() -> Iterator[dict[str, Any]]:
    """Yield one row per protection and rate; times are of the software here, in CPU-seconds per MB."""
    population, _ = _memory(TABLE_WEIGHTS)
    for by in PROTECTIONS:
        for rate in RATES:
            found = report(Protected(fault=BitErrors(rate=rate), by=by), population, chips=2, timing=rate == RATES[0])
            yield {
                "by": by,
                "rate": rate,
                "raw": found.raw.value,
                **{
                    name: {"value": share.value, "low": share.low, "high": share.high}
                    for name in ("residual", "failed", "detected", "miscorrected")
                    for share in [getattr(found, name)]
                },
                "expected": {name: found.expected_rate(name) for name in ("residual", "failed", "detected")},
                "erased": found.tally.erased / (found.data_bits * found.chips),
                "memory": found.memory_overhead,
                "seconds_per_mb": asdict(found.timing) if found.timing else None,
            }


def _line(row: dict[str, Any]) -> str:
    residual, theory, time = row["residual"], row["expected"]["residual"], row["seconds_per_mb"]
    shares = [row[name]["value"] for name in ("failed", "detected", "miscorrected")] + [row["erased"]]
    return "  ".join(
        [
            f"  {row['by']:<26}{row['rate']:>7.2%}",
            f"{residual['value']:>9.3e} [{residual['low']:.3e}, {residual['high']:.3e}]",
            "        -" if theory is None else f"{theory:>9.3e}",
            *(f"{share:>9.3e}" for share in shares),
            f"{row['memory']:>7.2%}",
            f"{time['encode'] * 1e3:6.1f} {time['decode'] * 1e3:6.1f}" if time else "",
        ]
    ).rstrip()


def main() -> None:
    """Run as a command: sentences and a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result = measure()
    if as_json:
        print(json.dumps(asdict(result) | {"table": list(table())}, sort_keys=True))
        return
    print(result.claim)
    print(f"  ours {result.ours:.4g} {result.unit}, {result.peer_name} {result.peer:.4g} {result.unit}")
    print(f"  ratio {result.ratio:.3g} (95 % interval {result.low:.3g} .. {result.high:.3g}, n={result.n})")
    print("  by, rate, residual bits [95 %], theory, failed, detected, miscorrected words, erased bits, memory,")
    print("  ms per MB to encode and to decode")
    for row in table():
        print(_line(row))


if __name__ == "__main__":
    main()
