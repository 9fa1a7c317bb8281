"""A million lies to the verifier, over every linear layer of ResNet-18 at 224x224: how many pass?

Single bits of any element, and lies a liar would think of: one off, the sign, the top bit, a multiple of a power of
two, two elements exchanged, an element zeroed. The peer figure is the bound of the proof times the number of lies: how
many should be expected to pass at most. Beside it: lies about the protocol (:mod:`benchmarks._protocol_lies`), and
campaigns of bit flips over ``offload:**`` of a session with a worker in a process of its own: what share was detected.

    python -m benchmarks.shield_lies [--json] [--protocol-only]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import _harness
from benchmarks._protocol_lies import refusals
from benchmarks._resnet_layers import CONVOLUTIONS, HEAD, STEM, Layer
from benchmarks._shield_arms import network
from holdfast import BitFlip, campaign, dataset
from holdfast.seeds import Entropy, derive
from holdfast.shielding import ESCAPE, Freivalds, integer_layers, shield
from holdfast.shielding.checking.folds import same
from holdfast.shielding.graph import export

LIES = int(os.environ.get("HOLDFAST_BENCH_LIES", "1000000"))
TURNS, TRIALS = 25, 300  # lies of each kind about each layer, and bit flips of a campaign
TARGETED = 0.3  # share of lies that are not single bits
Lie = Callable[[Tensor, np.random.Generator], tuple[Tensor, Tensor]]  # places, and what stands there instead


def _bit(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    place = _place(y, draw)
    return place, y[place] ^ torch.tensor(1 << int(draw.integers(32))).to(torch.int32)


def _one_off(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    place = _place(y, draw)
    return place, y[place] + int(draw.choice([-1, 1]))


def _negated(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    place = y.argmax().view(1)
    return place, -y[place]


def _top_bit(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    place = _place(y, draw)
    return place, y[place] ^ -(2**31)


def _power(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    place = _place(y, draw)
    return place, y[place] + (int(draw.integers(1, 2**8)) << int(draw.integers(8, 24)))


def _exchanged(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    places = torch.cat([_place(y, draw), y.argmax().view(1)])
    return places, y[places.flip(0)]


def _zeroed(y: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    place = y.argmin().view(1)
    return place, torch.zeros(1, dtype=torch.int32)


def _place(y: Tensor, draw: np.random.Generator) -> Tensor:
    return torch.tensor([int(draw.integers(y.numel()))])


TARGETS: list[Lie] = [_one_off, _negated, _top_bit, _power, _exchanged, _zeroed]


def told(layer: Layer, count: int) -> dict[str, int]:
    """Tell ``count`` lies about one image; return how many were told, really changed the answer, and passed."""
    x, codes, y = layer.operands(1)
    fold = Freivalds().prepare(codes, layer.geometry, Entropy()).fold(layer.sample)
    left, flat, draw = fold.left(x), y.view(-1), derive(1, "lies", layer.name).numpy()
    changed = passed = 0
    for _ in range(count):
        lie = TARGETS[draw.integers(len(TARGETS))] if draw.random() < TARGETED else _bit
        places, values = lie(flat, draw)
        before = flat[places]
        if torch.equal(before, values):
            continue
        flat[places] = values
        changed += 1
        passed += same(left, fold.right(y))
        flat[places] = before
    return {"told": count, "changed": changed, "passed": passed}


def measure() -> tuple[_harness.Result, dict[str, dict[str, int]]]:
    """Tell all lies, spread over the layers evenly."""
    torch.set_num_threads(1)
    layers = [STEM, *CONVOLUTIONS, HEAD]
    nodes = sum(layer.count for layer in layers)
    start = time.process_time()
    found = {layer.name: told(layer, -(-LIES * layer.count // nodes)) for layer in layers}
    changed, passed = (sum(item[key] for item in found.values()) for key in ("changed", "passed"))
    result = _harness.Result(
        claim=f"of {changed} lies over {nodes} nodes of ResNet-18, {passed} passed the check",
        ours=float(passed),
        peer=changed * ESCAPE,
        unit=f"lies that pass (in {time.process_time() - start:.0f} CPU-s)",
        ratio=float(passed),
        low=0.0,
        high=3.69 if passed == 0 else float("nan"),  # exact 97.5 % upper limit of a Poisson count of none
        n=changed,
        peer_name="lies expected to pass by the bound of the proof",
        machine=_harness.machine(),
    )
    return result, found


def campaigns() -> Iterator[dict[str, Any]]:
    """Yield the share of bit flips in answers that a session detects, with its interval, blinded and in the clear."""
    net, x = network("cifar-resnet20")
    model, data = export(net, x[:1], x), dataset("synthetic:n=1,size=32,channels=3")
    for placement in ("blinded", "verified"):
        with shield(model, placements=dict.fromkeys(integer_layers(model), placement)) as session:  # type: ignore[arg-type]
            found = campaign(session, data, BitFlip(), at="offload:**", trials=TRIALS, seed=0)["detected"]
        yield {"placement": placement, "at": "offload:**", "fault": "bit-flip", "trials": found.n,
               "detected": [found.value, found.low, found.high]}  # fmt: skip


def main() -> None:
    """Run as a command: sentences for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--protocol-only", action="store_true", help="leave the million lies about numbers out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    more: dict[str, Any] = {"protocol": list(refusals(TURNS)), "campaigns": list(campaigns())}
    if not options.protocol_only:
        result, found = measure()
        more = asdict(result) | {"layers": found} | more
    if options.json:
        print(json.dumps(more, sort_keys=True))
        return
    print(more.get("claim", "lies about numbers left out"))
    for row in (*more["protocol"], *more["campaigns"]):
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
