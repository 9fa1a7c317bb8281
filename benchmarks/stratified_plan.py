"""How many faults a margin costs: strata with Neyman allocation against simple random sampling, on fp32 weights.

Both plans stop by the same rule: when their 95 % confidence sequence for the share of critical-or-due faults, valid at
every look, is as narrow as asked. The peer's trials are one simple random campaign; its stopping points are those of
bootstrap samples of these trials. Two more peers are computed: the trials that Wilson's interval of a fixed size needs
when the share is known beforehand, and Leveugle's (DATE 2009), who assumes one half. The model is the pretrained
ResNet-20 with CIFAR-10 where ``HOLDFAST_SHARED`` (or ../shared) holds them, else a small net trained on the digits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import _harness
from holdfast.data import Dataset, dataset
from holdfast.execution import CampaignReport, campaign, trials_for
from holdfast.execution.planner import Course
from holdfast.execution.planner_design import EVERYTHING, Design
from holdfast.execution.trials import Row
from holdfast.faults import BitFlip
from holdfast.models import build_architecture, load

SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).parents[2] / "shared")) / "data"
MARGINS = (0.005, 0.003, 0.002)
SEEDS = int(os.environ.get("HOLDFAST_BENCH_SEEDS", "3"))
POOL = int(os.environ.get("HOLDFAST_BENCH_POOL", "12000"))
ORDERS = 20
LONGEST = 40_000  # trials of a bootstrap sample, more than it needs
BAR = 5.0


def measure() -> tuple[_harness.Result, dict[str, Any]]:
    """Count the trials of both plans at every margin; the claim is about the narrowest."""
    torch.set_num_threads(1)
    model, data, name = _subject()
    pool = campaign(model, data, BitFlip(), at="weights", trials=POOL, seed=1000)
    rows, table = list(pool.rows), []
    for margin in MARGINS:
        ours = [campaign(model, data, BitFlip(), at="weights", margin=margin, seed=seed) for seed in range(SEEDS)]
        peers = [_stop(_resampled(rows, order), margin) for order in range(ORDERS)]
        table.append(_line(margin, ours, peers, pool))
    result = _claim(name, table[-1])
    share = pool["critical-or-due"]
    facts = {"model": name, "bits": pool.plan["population_bits"], "margins": table, "bar": BAR, "pool": POOL}
    return result, facts | {"share_by_simple_random": [share.value, share.low, share.high]}


def _claim(name: str, line: dict[str, Any]) -> _harness.Result:
    fewer = line["fewer"]
    return _harness.Result(
        claim=f"the share of critical-or-due weight faults of {name} to within {line['margin']:.1%}: strata need a "
        "fifth of the trials of simple random sampling, or fewer",
        ours=float(np.mean(line["ours"])),
        peer=float(np.mean(line["simple_random"])),
        unit="trials",
        ratio=1 / fewer["value"],
        low=1 / fewer["high"],
        high=1 / fewer["low"],
        n=len(line["ours"]),
        peer_name="simple random sampling, same stopping rule",
        machine=_harness.machine(),
    )


def _line(margin: float, ours: Sequence[CampaignReport], peers: Sequence[int], pool: CampaignReport) -> dict[str, Any]:
    mine, p = [report.trials for report in ours], pool["critical-or-due"].value
    ratio, low, high = _ratio(mine, peers)
    shares = [report["critical-or-due"] for report in ours]
    return {
        "margin": margin,
        "ours": mine,
        "simple_random": list(peers),
        "fewer": {"value": ratio, "low": low, "high": high},
        "fixed_size_known_share": trials_for(margin, p=p),
        "fewer_than_fixed_size": trials_for(margin, p=p) / float(np.mean(mine)),
        "leveugle": trials_for(margin),
        "estimates": [[share.value, share.low, share.high] for share in shares],
        "strata": len(ours[0].design.parts),
    }


def _ratio(mine: Sequence[int], peers: Sequence[int]) -> tuple[float, float, float]:
    """Return how many times fewer trials we need: the ratio of means, with a bootstrap interval over both.

    Not of medians: plans stop at the ends of rounds, so that many stop at the same number.
    """
    generator = np.random.default_rng(0)
    ratios = [
        float(generator.choice(peers, len(peers)).mean() / generator.choice(mine, len(mine)).mean())
        for _ in range(_harness.RESAMPLES)
    ]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.mean(peers) / np.mean(mine)), float(low), float(high)


def _resampled(rows: Sequence[Row], order: int) -> list[Row]:
    drawn = np.random.default_rng(order).integers(len(rows), size=LONGEST)
    return [replace(rows[place], trial=number) for number, place in enumerate(drawn.tolist())]


def _stop(rows: Sequence[Row], margin: float) -> int:
    """Return after how many of ``rows`` simple random sampling stops."""
    course, done = Course(Design((EVERYTHING,), 32, len(rows), margin=margin)), 0
    while any(counts := course.allocation()):
        course.take(rows[done : done + counts[0]])
        done += counts[0]
    if course.stopped != "margin reached":
        raise SystemExit(f"{len(rows)} trials do not reach {margin}: raise LONGEST")
    return done


def _subject() -> tuple[nn.Module, Dataset, str]:
    weights, pixels = SHARED / "resnet-cifar10" / "resnet20-12fca82f.th", SHARED / "cifar10" / "unpack.py"
    if not weights.is_file() or not pixels.is_file():
        return _small(), dataset("digits", split="test"), "a small net on the digits"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(pixels), folder], check=True)
        data = dataset(f"cifar10:{folder}", split="test").take(1000)
    return load(weights, arch="cifar-resnet20"), data, "the pretrained ResNet-20"


def _small() -> nn.Module:
    generator, model = torch.Generator().manual_seed(0), build_architecture("digits-cnn:channels=8", seed=0)
    images, labels = dataset("digits", split="train").all()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(100):
        pick = torch.randperm(len(labels), generator=generator)[:256]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[pick]), labels[pick]).backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Run as a command: a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, facts = measure()
    if as_json:
        print(json.dumps(asdict(result) | facts, sort_keys=True))
        return
    print(result.claim)
    for line in facts["margins"]:
        fewer = line["fewer"]
        print(
            f"  +-{line['margin']:.2%}: {np.mean(line['ours']):>8.0f} trials against "
            f"{np.mean(line['simple_random']):>8.0f}: {fewer['value']:.1f} times fewer "
            f"[{fewer['low']:.1f}, {fewer['high']:.1f}]; fixed size with known share {line['fixed_size_known_share']}, "
            f"Leveugle {line['leveugle']}"
        )


if __name__ == "__main__":
    main()
