"""Paired, interleaved timing in CPU-seconds, and the one JSON object that every benchmark prints."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from holdfast.execution.statistics import Proportion

RESAMPLES = 2000


@dataclass(frozen=True)
class Result:
    """One claim: our figure, the peer's, and their ratio (ours / peer) with a 95 % bootstrap interval."""

    claim: str
    ours: float  # median, in ``unit``
    peer: float  # median, in ``unit``
    unit: str
    ratio: float
    low: float
    high: float
    n: int  # pairs measured
    peer_name: str
    machine: dict[str, str]


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU time, user and system, that ``call`` and the children it waited for took."""

    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    before = spent()
    call()
    return spent() - before


def paired(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int = 9) -> list[tuple[float, float]]:
    """Return ``repeats`` pairs of CPU-seconds, after one warm-up each, in alternating order.

    The two run side by side so that a busy machine slows both alike.
    """
    ours()
    peer()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            theirs, mine = cpu_seconds(peer), cpu_seconds(ours)
        else:
            mine, theirs = cpu_seconds(ours), cpu_seconds(peer)
        pairs.append((mine, theirs))
    return pairs


def summarise(claim: str, pairs: Sequence[tuple[float, float]], *, peer_name: str, unit: str = "CPU-s") -> Result:
    """Return medians and the ratio of medians with its percentile-bootstrap interval over pairs."""

    def ratio(sample: Sequence[tuple[float, float]]) -> float:
        return statistics.median(a for a, _ in sample) / max(statistics.median(b for _, b in sample), 1e-9)

    generator = random.Random(0)
    spread = sorted(ratio(generator.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return Result(
        claim=claim,
        ours=statistics.median(a for a, _ in pairs),
        peer=statistics.median(b for _, b in pairs),
        unit=unit,
        ratio=ratio(pairs),
        low=spread[int(0.025 * RESAMPLES)],
        high=spread[int(0.975 * RESAMPLES)],
        n=len(pairs),
        peer_name=peer_name,
        machine=machine(),
    )


def share(flags: Sequence[bool]) -> dict[str, float]:
    """Return how many of ``flags`` are true, with its 95 % Clopper-Pearson interval."""
    return share_of(sum(flags), len(flags))


def share_of(successes: int, n: int) -> dict[str, float]:
    """Return ``successes`` of ``n`` with the 95 % Clopper-Pearson interval."""
    found = Proportion.clopper_pearson(successes, n)
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, cores, system, Python."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def main(measure: Callable[[], Result]) -> None:
    """Run one benchmark as a command: a sentence for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result = measure()
    if as_json:
        print(json.dumps(asdict(result), sort_keys=True))
        return
    print(result.claim)
    print(f"  ours {result.ours:.4g} {result.unit}, {result.peer_name} {result.peer:.4g} {result.unit}")
    print(f"  ratio {result.ratio:.3g} (95 % interval {result.low:.3g} .. {result.high:.3g}, n={result.n})")
