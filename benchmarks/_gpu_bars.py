"""What the kernels are to reach on a GPU of the H200's class, held against the results that lie in a folder.

A bar without its result is not measured, which is neither reached nor missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Found = dict[str, Any]

LAUNCHES = 1.5  # times what a rate takes at which hardly anything flips: more than that, and errors are what it takes


@dataclass(frozen=True)
class Bar:
    """One bar: which result it is read from, and how.

    Attributes:
        name: what is measured.
        benchmark: whose JSON holds it.
        unit: of the figure and of the limit.
        limit: that is to be reached.
        least: whether the figure must be no smaller than ``limit``; otherwise no larger.
        figure: reads the figure out of a result.
    """

    name: str
    benchmark: str
    unit: str
    limit: float
    least: bool
    figure: Callable[[Found], float]

    def reached(self, value: float) -> bool:
        """Say whether ``value`` reaches the limit."""
        return value >= self.limit if self.least else value <= self.limit


def _case(found: Found, name: str) -> Found:
    return next(case for case in found["cases"] if case["name"] == name)


def _slowest_digest(found: Found) -> float:
    return min(float(case["gb_per_s"]) for case in found["cases"] if "," not in case["name"])


def _whole_verify(found: Found) -> float:
    return float(_case(found, "gpt2-xl, tables and copy of roots")["ms"])


def _dense_share(found: Found) -> float:
    return 100 * float(_case(found, "p = 0.01")["copy_ms"]) / float(_case(found, "p = 0.01")["ms"])


def _sparse_over_launch(found: Found) -> float:
    return float(_case(found, "p = 1e-06")["ms"]) / float(_case(found, "p = 1e-09")["ms"])


def _randbet_step(found: Found) -> float:
    return float(_case(found, "RandBET")["ms"]) / float(_case(found, "QAT")["ms"])


def _range_share(found: Found) -> float:
    return 100 * float(_case(found, "ranges")["share"])


def _checksum_share(found: Found) -> float:
    return 100 * min(float(case["share"]) for case in found["cases"] if case["name"].startswith("checksums"))


def _campaign_gain(found: Found) -> float:
    return float(found["ratio"])


def _worst_shielded(found: Found) -> float:
    """Return, of all networks and batches, the least gain that the quickest shielded way has over the trusted core."""
    best: dict[tuple[str, int], float] = {}
    for case in found["cases"]:
        if case.get("crossings"):
            gain, key = float(case["speed-up over whole"][0]), (case["network"], case["batch"])
            best[key] = max(best.get(key, 0.0), gain)
    return min(best.values())


def _furthest_row(found: Found) -> float:
    """Return the largest difference, in per cent, from what is published of the two rows at p = 0 and 1 %."""
    gaps = [
        100 * abs(float(arm["measured"][name]["value"]) - float(arm["facts"]["published"]["values"][name]))
        for arm in found["arms"]
        for name in ("clean-error", "robust-error@p=0.01")
    ]
    return max(gaps)


BARS = (
    Bar("BLAKE3 of a state dict, slowest of five networks", "gpu_digest", "GB/s", 500, True, _slowest_digest),
    Bar("verify all of GPT-2 XL", "gpu_digest", "ms", 20, False, _whole_verify),
    Bar("dense bit errors at p = 1 %, of a copy's bandwidth", "gpu_bit_errors", "%", 50, True, _dense_share),
    Bar("sparse errors at p = 1e-6, of p = 1e-9", "gpu_bit_errors", "times", LAUNCHES, False, _sparse_over_launch),
    Bar("RandBET step, of a QAT step", "gpu_randbet", "times", 2.2, False, _randbet_step),
    Bar("range guards on a ViT-L, over it", "gpu_guards", "%", 1, False, _range_share),
    Bar("checksums of all its linear layers, over it", "gpu_guards", "%", 3, False, _checksum_share),
    Bar("campaign on a ViT-L, over one inference per fault", "gpu_campaign", "times", 5, True, _campaign_gain),
    Bar("shielded, over the trusted core, least gain", "gpu_shield", "times", 8, True, _worst_shielded),
    Bar("two published rows of CIFAR-10, furthest apart", "cifar10/results", "points", 0.5, False, _furthest_row),
)


def table(folder: Path) -> Iterator[str]:
    """Yield a line for every bar: what was aimed at, what was measured, and whether that is enough."""
    for bar in BARS:
        path = folder / f"{bar.benchmark}.json"
        aim = f"{'>=' if bar.least else '<='} {bar.limit:g} {bar.unit}"
        if not path.is_file():
            yield f"{bar.name:52} {aim:>14}   not measured"
            continue
        try:
            value = bar.figure(json.loads(path.read_text()))
        except (ValueError, KeyError, RuntimeError, StopIteration) as error:  # one result must not hide the others
            yield f"{bar.name:52} {aim:>14}   not readable: {path.name} ({type(error).__name__})"
            continue
        verdict = "reached" if bar.reached(value) else "MISSED"
        yield f"{bar.name:52} {aim:>14}   {value:10.3g} {bar.unit:6} {verdict}"
