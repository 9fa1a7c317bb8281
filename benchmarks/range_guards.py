"""Range guards at branch outputs: what they cost, whether any branch is missed, and what they are worth.

The claim is the cost of a guarded pass of a ViT-B/16 over a plain one. Beside it stand ResNet-18, the same nets with
guards at the residual sums too, and the published layer (NaN to zero, then clamp, out of place) at the same branches;
the branches found in every family against what its configuration says; how many of the struck branches leave NaN or
infinity in the output; and, where the shared data is, a paired campaign on the pretrained ResNet-20.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _harness
from benchmarks._families import FAMILIES, resnet18, vit_base
from holdfast.data import Dataset, dataset
from holdfast.execution import Proportion
from holdfast.faults import BitFlip
from holdfast.hardening import (
    HardenedIdentityGuard,
    Placement,
    RangeGuard,
    evaluate_guards,
    harden,
    method_of,
    place,
)
from holdfast.models import attach_guard, load, tap
from holdfast.seeds import derive

TRIALS = int(os.environ.get("HOLDFAST_BENCH_TRIALS", "2000"))
TURNS = {"vit-base": 9, "resnet-18": 41}
SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
STRIKES = (torch.nan, torch.inf, -torch.inf, 3e38)


def measure() -> _harness.Result:
    """Time a guarded against a plain pass of one image through a ViT-B/16, on one core."""
    torch.set_num_threads(1)
    model = vit_base()
    return _cost("vit-base", model, _branches(place(model, _image()[0])), _range)


def costs() -> Iterator[_harness.Result]:
    """Yield the cost of every other arm."""
    for name, model in (("vit-base", vit_base()), ("resnet-18", resnet18())):
        found = place(model, _image()[0])
        if name != "vit-base":
            yield _cost(name, model, _branches(found), _range)
        yield _cost(f"{name}, sums too", model, found.sites, _range)
        yield _cost(f"{name}, published layer", model, _branches(found), _Published)


def _cost(
    name: str, model: nn.Module, sites: Sequence[str], guard: Callable[[str, float, float], Any]
) -> _harness.Result:
    guarded, image = copy.deepcopy(model), _image()
    for site in sites:
        attach_guard(guarded, guard(site, -1e4, 1e4))
    with torch.no_grad():
        pairs = _harness.paired(lambda: guarded(image), lambda: model(image), repeats=TURNS[name.partition(",")[0]])
    return _harness.summarise(
        f"a pass with {len(sites)} guards costs about what a plain one does: {name}", pairs, peer_name="plain pass"
    )


class _Published(HardenedIdentityGuard):
    """The layer as published, which does not count what it changes."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.nan_to_num(x, nan=0.0, posinf=self.high, neginf=self.low), self.low, self.high)


class _Timed(RangeGuard):
    """A range guard that adds up its own CPU time."""

    spent = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        start = time.process_time()
        result = super().__call__(x)
        self.spent += time.process_time() - start
        return result


def shares(passes: int = 7) -> Iterator[dict[str, Any]]:
    """Yield the share of a pass that its guards themselves take; far steadier than the ratio of two passes.

    The hooks around them, some microseconds for each guard, are not in it.
    """
    for name, model in (("vit-base", vit_base()), ("resnet-18", resnet18())):
        found = place(model, _image()[0])
        for arm, sites in (("branches", _branches(found)), ("placed", found.sites)):
            guarded, image, measured = copy.deepcopy(model), _image(), []
            timed = [_Timed(site, -1e4, 1e4) for site in sites]
            for guard in timed:
                attach_guard(guarded, guard)
            with torch.no_grad():
                for _ in range(passes + 1):
                    for guard in timed:
                        guard.spent = 0.0
                    whole = _harness.cpu_seconds(lambda net=guarded, x=image: net(x))
                    measured.append(sum(guard.spent for guard in timed) / whole)
            low, *_, high = sorted(measured[1:])
            yield {"net": name, "at": arm, "guards": len(sites), "share": statistics.median(measured[1:]),
                   "least": low, "most": high, "n": passes}  # fmt: skip


def _range(site: str, low: float, high: float) -> RangeGuard:
    return RangeGuard(site, low, high)


def _branches(found: Placement) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*found.branches, *found.logits)))


def _image() -> Tensor:
    return torch.rand(1, 3, 224, 224, generator=derive(0, "image").torch())


def coverage() -> Iterator[dict[str, Any]]:
    """Yield, for each family, how many of its branches are guarded and what strikes leave behind."""
    for family in FAMILIES:
        try:
            model, example = family.build(), family.example()
        except ImportError as error:
            yield {"family": family.name, "absent": str(error)}
            continue
        found = place(model, example)
        yield {
            "family": family.name,
            "branches": len(found.branches),
            "expected": family.branches,
            "sums": len(found.sums),
            "residual": [_share(item) for item in _residual(model, example, found)] if family.struck else None,
        }


@torch.no_grad()
def _residual(model: nn.Module, example: Tensor, found: Placement) -> tuple[Proportion, Proportion]:
    """Return the share of strikes at branches that leave NaN or infinity in the output, without guards and with."""
    guarded, batch = copy.deepcopy(model), example.unsqueeze(0)
    for site in found.sites:
        attach_guard(guarded, _range(site, -1e3, 1e3))
    counts = [0, 0]
    for site in found.branches:
        for value in STRIKES:
            for arm, net in enumerate((model, guarded)):
                with tap(net, {site: lambda output, value=value: _struck(output, value)}):
                    counts[arm] += not bool(net(batch).isfinite().all())
    total = len(found.branches) * len(STRIKES)
    return Proportion.clopper_pearson(counts[0], total), Proportion.clopper_pearson(counts[1], total)


def _struck(output: Tensor, value: float) -> Tensor:
    output[..., ::7] = value
    return output


def worth() -> dict[str, Any] | None:
    """Return what placed guards are worth on the pretrained ResNet-20, by specification; None without the data."""
    weights, root = SHARED / "resnet-cifar10" / "resnet20-12fca82f.th", os.environ.get("HOLDFAST_CIFAR10")
    if not weights.exists() or root is None:  # the folder that holds cifar-10-batches-bin
        return None
    model = load(weights, arch="cifar-resnet20")
    train, test = dataset(f"cifar10:{root}", split="train").take(2000), dataset(f"cifar10:{root}", split="test")
    found = {}
    for spec in ("range", "range:at=activations,per=channel"):
        hardened = harden(model, method_of(spec).calibrated(model, train))
        report = evaluate_guards(
            model, hardened, test.take(1000), BitFlip(), trials=TRIALS, seed=0, shifted={"noise": _noisy(test)}
        )
        found[spec] = report.to_json()
    return {"trials": TRIALS, "calibration": 2000, "evaluation": 1000, "specifications": found}


def _noisy(data: Dataset) -> Dataset:
    """The first 500 test images under Gaussian noise of a tenth of the range."""
    part = data.take(500)
    noise = torch.randn(part.raw.shape, generator=derive(0, "noise").torch()) * 25.5
    raw = (part.raw.float() + noise).round().clamp(0, 255).to(torch.uint8)
    return Dataset("noisy", raw, part.labels, part.classes, part.preprocessing)


def _share(item: Proportion) -> dict[str, float]:
    return {"value": item.value, "low": item.low, "high": item.high, "n": item.n}


def main() -> None:
    """Run as a command: sentences and tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result = measure()
    more = {
        "costs": [asdict(item) for item in costs()],
        "shares": list(shares()),
        "coverage": list(coverage()),
        "worth": worth(),
    }
    if as_json:
        print(json.dumps(asdict(result) | more, sort_keys=True))
        return
    for item in (asdict(result), *more["costs"]):
        print(f"{item['claim']}: x {item['ratio']:.4f} ({item['low']:.4f} .. {item['high']:.4f})")
    for row in (*more["shares"], *more["coverage"]):
        print(row)
    print(json.dumps(more["worth"], indent=1))


if __name__ == "__main__":
    main()
