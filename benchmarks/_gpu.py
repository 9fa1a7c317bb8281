"""Timing on a CUDA device: event timings after warm-up, and the device's own limit measured in the same run."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks import _harness
from holdfast._device import device_named
from holdfast.errors import MissingDevice

WARM_UPS, REPEATS = 5, 30


@dataclass(frozen=True)
class DeviceResult(_harness.Result):
    """A claim about a device; ``cases`` are its rows, each with a median, an interval and the limit beside it."""

    cases: list[dict[str, Any]] = field(default_factory=list)


def require_device() -> torch.device:
    """Return the device to measure; leave with exit code 3 where there is none."""
    try:
        return device_named("cuda", start=True)
    except MissingDevice as error:
        print(f"this benchmark needs a CUDA device: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def milliseconds(call: Callable[[], object], *, repeats: int = REPEATS) -> list[float]:
    """Return the times of ``repeats`` calls between events, warm-ups left out, every call waited for."""
    for _ in range(WARM_UPS):
        call()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return times


def copying(source: torch.Tensor) -> list[float]:
    """Return the times of a copy of ``source`` within the device: what no pass over these bytes can beat by much."""
    target = torch.empty_like(source)
    return milliseconds(lambda: target.copy_(source))


def row(name: str, times: list[float], limit: list[float], *, count: int) -> dict[str, Any]:
    """Return one case: median and quartiles in milliseconds, GB/s over ``count`` bytes, and the limit's median."""
    low, median, high = statistics.quantiles(times, n=4)
    peer = statistics.median(limit)
    return {
        "name": name, "ms": median, "ms_quartiles": [low, high], "bytes": count, "gb_per_s": count / median / 1e6,
        "copy_ms": peer, "copy_gb_per_s": 2 * count / peer / 1e6,
    }  # fmt: skip


def summarise(claim: str, ours: list[float], limit: list[float], cases: list[dict[str, Any]]) -> DeviceResult:
    """Return the result: ours against the copy of the same bytes, paired as measured, and all cases."""
    pairs = list(zip(ours, limit, strict=True))
    found = _harness.summarise(claim, pairs, peer_name="copy of the same bytes on the device", unit="ms")
    return DeviceResult(**(asdict(found) | {"machine": machine()}), cases=cases)


def machine() -> dict[str, str]:
    """Return the host's facts and the GPU's."""
    facts = _harness.machine() | {"torch": torch.__version__}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "multiprocessors": str(properties.multi_processor_count)}
        facts |= {"cuda": str(torch.version.cuda)}
    return facts


def main(measure: Callable[[torch.device], DeviceResult]) -> None:
    """Run one benchmark as a command: a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result = measure(require_device())
    if as_json:
        print(json.dumps(asdict(result), sort_keys=True))
        return
    print(result.claim)
    for case in result.cases:
        figures = f"{case['ms']:9.3f} ms {case['gb_per_s']:9.1f} GB/s"
        print(f"  {case['name']:28} {figures}   copy {case['copy_ms']:.3f} ms")
    print(f"  ratio {result.ratio:.3g} of {result.peer_name} ({result.low:.3g} .. {result.high:.3g}, n={result.n})")
