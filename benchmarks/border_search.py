"""Border inputs of a trained net: bisection and lattice steps against sign-PGD as published, CPU-seconds each.

The net is the pretrained CIFAR-10 ResNet-20 where the shared data and CIFAR-10 in its official layout are at hand
(``HOLDFAST_CIFAR10``), else one trained here on the digits in 8-bit pixels. The claim is the CPU time to one border
input of fp32 against bf16, the one pair that sign-PGD manages. Beside it, for every pair: how many of six searches of
ours succeed and what they take, how many tries of sign-PGD do, and in how many fresh processes
(``HOLDFAST_BENCH_FRESH``) each of our inputs had to keep both labels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import holdfast
from benchmarks import _harness
from holdfast.data import Dataset, Preprocessing, dataset
from holdfast.errors import VerificationError
from holdfast.identification.border import BorderInput, Demands, LatticeSearch, SignPGD, border
from holdfast.models import build_architecture, load

PAIRS = ("bf16", "fp16", "onednn-off", "channels-last", "batch-1")
# fp16 convolutions have no fast kernel on most CPUs: fewer candidates, one at a time, do as well
OPTIONS: dict[str, dict[str, Any]] = {"fp16": {"batch": 1, "search": LatticeSearch(candidates=8)}}
SEARCHES = 6
FRESH = int(os.environ.get("HOLDFAST_BENCH_FRESH", "0"))
TRIES = int(os.environ.get("HOLDFAST_BENCH_TRIES", "1"))  # of sign-PGD, for each pair: 400 steps of 32 images
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


def found(model: nn.Module, data: Dataset, other: str, seed: int, **options: Any) -> tuple[BorderInput | None, float]:
    """Search once; return the input, or None, and the CPU-seconds."""
    before = time.process_time()
    try:
        item = border(model, data, platforms=("default", other), seed=seed, **options).inputs[0]
    except VerificationError:
        item = None
    return item, time.process_time() - before


def measure() -> _harness.Result:
    """Time both methods to one border input of fp32 against bf16, seed by seed."""
    torch.set_num_threads(1)
    name, model, data = subject()
    pgd = SignPGD(check_every=0.05)
    pairs = []
    for seed in range(SEARCHES):
        (ours, mine), (theirs, spent) = found(model, data, "bf16", seed), found(model, data, "bf16", seed, search=pgd)
        if ours is None or theirs is None:
            raise SystemExit(f"seed {seed}: no border input by {'lattice steps' if ours is None else 'sign-PGD'}")
        pairs.append((mine, spent))
    claim = f"one border input of fp32 against bf16 on {name}, by bisection and lattice steps"
    return _harness.summarise(claim, pairs, peer_name="sign-PGD as published")


def table() -> Iterator[dict[str, Any]]:
    """Yield, for every pair, what both methods find."""
    torch.set_num_threads(1)
    _, model, data = subject()
    for other in PAIRS:
        options = OPTIONS.get(other, {}) | {"demands": Demands(fresh=FRESH)}
        ours = [found(model, data, other, seed, **options) for seed in range(SEARCHES)]
        pgd = [found(model, data, other, seed, search=SignPGD(tries=1, check_every=0.05)) for seed in range(TRIES)]
        kept = [item for item, _ in ours if item is not None]
        yield {
            "pair": f"default / {other}",
            "found": len(kept),
            "searches": len(ours),
            "cpu_seconds": statistics.median(seconds for _, seconds in ours),
            "slowest": max(seconds for _, seconds in ours),
            "evaluations": statistics.median([item.evaluations for item in kept] or [0]),
            "margin": statistics.median([item.margin for item in kept] or [0.0]),
            "fresh_processes": FRESH,
            "pgd_tries_with_any": sum(item is not None for item, _ in pgd),
            "pgd_tries": len(pgd),
            "pgd_cpu_seconds": statistics.median(seconds for _, seconds in pgd),
        }


def main() -> None:
    """Print the claim and, after it, one line for each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, rows = asdict(measure()), list(table())
    if as_json:
        print(json.dumps(result | {"pairs": rows}, sort_keys=True))
        return
    print(
        f"{result['claim']}: {result['ratio']:.3g} of {result['peer_name']} ({result['low']:.3g}..{result['high']:.3g})"
    )
    for row in rows:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
