"""Border inputs of a trained net: bisection and measured steps against sign-PGD as published, CPU-seconds each.

The net is the pretrained CIFAR-10 ResNet-20 where the shared data and CIFAR-10 in its official layout are at hand
(``HOLDFAST_CIFAR10``), else one trained here on the digits in 8-bit pixels. The claim is the CPU time to one border
input of fp32 against bf16, the one pair that sign-PGD manages. Beside it, for every pair: how many of six searches of
ours succeed, what they take, checks included, and how many tries of sign-PGD do. What was found is written, and read
back from its PNG files in ``HOLDFAST_BENCH_FRESH`` fresh processes, each of which must see both labels of every input.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import holdfast
from benchmarks import _harness
from holdfast.data import Dataset, Preprocessing, dataset
from holdfast.errors import VerificationError
from holdfast.execution import Proportion
from holdfast.identification import LOCAL_PLATFORMS
from holdfast.identification.border import (
    BorderSet,
    Demands,
    LatticeSearch,
    SignPGD,
    border,
    open_oracles,
    recheck,
)
from holdfast.models import build_architecture, load

PAIRS = ("bf16", "fp16", "fp16 in eights", "onednn-off", "channels-last", "batch-1")
# fp16 convolutions have no fast kernel on most CPUs: fewer candidates, one at a time, do as well
OPTIONS: dict[str, dict[str, Any]] = {
    "fp16": {"batch": 1, "search": LatticeSearch(candidates=8)},
    "fp16 in eights": {"batch": 8, "search": LatticeSearch(candidates=8, polish=0)},
}
SEARCHES = 6
FRESH = int(os.environ.get("HOLDFAST_BENCH_FRESH", "0"))
PGD = SignPGD(tries=1, check_every=0.05)  # one try: up to 400 steps of 32 images
# one try takes some ten minutes where each of 12800 images has to be asked about on a slow or single-image platform
PGD_PAIRS = os.environ.get("HOLDFAST_BENCH_PGD", "bf16,onednn-off,channels-last").split(",")
SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def subject() -> tuple[str, nn.Module, Dataset]:
    """Return what is searched: its name, the net, and images to start from."""
    weights, root = SHARED / "resnet-cifar10" / "resnet20-12fca82f.th", os.environ.get("HOLDFAST_CIFAR10")
    if weights.exists() and root:
        data = dataset(f"cifar10:{root}", split="test")
        # the weights' own preprocessing
        own = Preprocessing(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        data = Dataset(data.name, data.raw, data.labels, data.classes, own)
        return "resnet20-cifar10", load(weights, arch="cifar-resnet20"), data
    digits = dataset("digits", split="train")
    data = Dataset("digits", digits.raw * 15, digits.labels, digits.classes, Preprocessing(1 / 240, (0.5,), (0.5,)))
    recipe = holdfast.Standard(schedule=holdfast.Schedule(epochs=10))
    return "digits-cnn", holdfast.train(build_architecture("digits-cnn"), data, recipe, seed=0), data


def found(model: nn.Module, data: Dataset, other: str, seed: int, **options: Any) -> tuple[BorderSet | None, float]:
    """Search once; return the input, or None, and the CPU-seconds."""
    before = time.process_time()
    try:
        item = border(model, data, platforms=("default", other.split()[0]), seed=seed, **options)
    except VerificationError:
        item = None
    return item, time.process_time() - before


def measure() -> _harness.Result:
    """Time both methods to one border input of fp32 against bf16, seed by seed."""
    torch.set_num_threads(1)
    name, model, data = subject()
    pairs = []
    for seed in range(SEARCHES):
        (ours, mine), (theirs, spent) = found(model, data, "bf16", seed), found(model, data, "bf16", seed, search=PGD)
        if ours is None or theirs is None:
            raise SystemExit(f"seed {seed}: no border input by {'measured steps' if ours is None else 'sign-PGD'}")
        pairs.append((mine, spent))
    claim = f"one border input of fp32 against bf16 on {name}, by bisection and measured steps"
    return _harness.summarise(claim, pairs, peer_name="sign-PGD as published")


def table(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield, for every pair, what both methods find; what ours finds is written."""
    torch.set_num_threads(1)
    _, model, data = subject()
    for other in PAIRS:
        ours = [found(model, data, other, seed, **OPTIONS.get(other, {})) for seed in range(SEARCHES)]
        kept = [item for item, _ in ours if item is not None]
        _write(kept, model, folder / other)
        inputs = [item.inputs[0] for item in kept]
        yield {
            "pair": f"default / {other}",
            "found": len(kept),
            "searches": len(ours),
            "cpu_seconds": statistics.median(seconds for _, seconds in ours),
            "slowest": max(seconds for _, seconds in ours),
            "evaluations": statistics.median([item.evaluations for item in inputs] or [0]),
            "margin": statistics.median([item.margin for item in inputs] or [0.0]),
        } | (_published(model, data, other) if other in PGD_PAIRS else {})


def _published(model: nn.Module, data: Dataset, other: str) -> dict[str, Any]:
    item, seconds = found(model, data, other, 0, search=PGD)
    return {"pgd_tries": 1, "pgd_tries_with_any": int(item is not None), "pgd_cpu_seconds": seconds}


def _write(kept: list[BorderSet], model: nn.Module, folder: Path) -> None:
    if not kept:
        return
    first = kept[0].inputs[0].standings
    settings = [replace(LOCAL_PLATFORMS[item.platform], batch_size=item.batch) for item in first]
    together = replace(kept[0], inputs=tuple(item.inputs[0] for item in kept))
    with open_oracles(model, settings, together.lattice) as oracles:
        together.save(folder, oracles)


def stable(folder: Path) -> dict[str, Any]:
    """Ask about everything in ``folder`` in fresh processes and count the labels that are as written."""
    command = [sys.executable, "-m", "benchmarks.border_search", "--again", str(folder)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(FRESH)]
    held = Proportion.clopper_pearson(sum(run[0] for run in runs), sum(run[1] for run in runs)) if runs else None
    return {"fresh_processes": FRESH, "labels_held": asdict(held) if held else None}


def ask_again(folder: Path) -> tuple[int, int]:
    """Return how many labels of the inputs below ``folder`` hold, and how many there are."""
    torch.set_num_threads(1)
    _, model, _ = subject()
    once = Demands(repeats=1, neighbours=1)
    held = [item.holds for part in sorted(folder.iterdir()) for item in recheck(part, model, demands=once)]
    return sum(held), len(held)


def main() -> None:
    """Print the claim and, after it, one line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.again is not None:
        print(json.dumps(ask_again(options.again)))
        return
    with tempfile.TemporaryDirectory() as place:
        result, rows, held = asdict(measure()), list(table(Path(place))), stable(Path(place))
    if options.json:
        print(json.dumps(result | {"pairs": rows} | held, sort_keys=True))
        return
    print(
        f"{result['claim']}: {result['ratio']:.3g} of {result['peer_name']} ({result['low']:.3g}..{result['high']:.3g})"
    )
    for row in (*rows, held):
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
