"""Every published rule of who computes what, on one graph, executed with real tensors between two processes.

One sample at a time, the trusted world on one core and the worker, under another user, on another. All arms are open at
once and take turns, one call to warm up and one that counts, so that what else the machine does strikes all alike;
every answer is compared with the plaintext int8 model, bit for bit. Wall-clock medians, and beside them the CPU time of
both worlds, whose sum is the latency of a machine that does nothing else, for the worlds take turns too. Speed-ups are
over the whole model in the trusted world (MLCapsule) and over no shield at all; intervals are 95 % bootstraps.

What a rule leaves exposed or probed is believed; no session of Holdfast would, so these arms run through
:mod:`benchmarks._exposed` and their rows say what they reveal. ``most`` is the speed-up of the whole model's CPU time
over that of the trusted world alone: what an arm would come to if the worker cost nothing, or if the trusted world
were arbitrarily slow; ``even`` is the slow-down of the trusted world from which on the arm wins. Both are computed.

    python -m benchmarks.shield_baselines [--json] [--network resnet18] [--rounds 9]
    python -m benchmarks.shield_baselines --table benchmarks/results/shield_baselines_*.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import _harness
from benchmarks._shield_arms import Arm, arms, network
from holdfast.errors import IntegrityError
from holdfast.shielding.graph import export
from holdfast.shielding.planner import SIGHTS, Machine, Plan, measure

ROUNDS, WARM = 9, 2
NETWORK = "cifar-resnet20"
PAPER = "more than 8, with an enclave that slows the trusted world and a GPU as the worker"
Turn = tuple[float, float, float]  # seconds: wall, CPU of the trusted world, CPU of the worker


def rounds(open_arms: Sequence[Arm], x: Tensor, wanted: Tensor, count: int) -> dict[str, list[Turn]]:
    """Return ``count`` timings of every arm, taken in turns whose order rotates, after the same warm-up for all."""
    found: dict[str, list[Turn]] = {arm.name: [] for arm in open_arms}
    for arm in open_arms:
        arm.prepare(WARM + 2 * count)
        for _ in range(WARM):
            _equal(arm, arm.call(x), wanted)
    for number in range(count):
        start = number % len(open_arms)
        for arm in (*open_arms[start:], *open_arms[:start]):
            arm.call(x)  # finds the caches as the arm before left them
            output, turn = timed(arm, x)
            _equal(arm, output, wanted)
            found[arm.name].append(turn)
    return found


def _equal(arm: Arm, output: Tensor, wanted: Tensor) -> None:
    if not torch.equal(output, wanted):
        raise IntegrityError(f"arm {arm.name} does not equal the plaintext int8 model")


def timed(arm: Arm, x: Tensor) -> tuple[Tensor, Turn]:
    """Return an arm's output and what it took."""
    theirs, ours, start = arm.worker_seconds(), time.process_time(), time.perf_counter()
    output = arm.call(x)
    wall, trusted = time.perf_counter() - start, time.process_time() - ours
    return output, (wall, trusted, arm.worker_seconds() - theirs)


def interval(samples: Sequence[Turn], peers: Sequence[Turn], figure: Callable[..., float]) -> list[float]:
    """Return a figure of two arms' rounds with its 95 % interval by resampling rounds, the same for both."""
    draw, places = random.Random(0), range(len(samples))

    def once(chosen: Sequence[int]) -> float:
        return figure([samples[k] for k in chosen], [peers[k] for k in chosen])

    spread = sorted(once(draw.choices(places, k=len(places))) for _ in range(_harness.RESAMPLES))
    return [once(places), spread[int(0.025 * len(spread))], spread[int(0.975 * len(spread))]]


def wall(turns: Sequence[Turn]) -> float:
    """Return the median wall-clock seconds."""
    return statistics.median(turn[0] for turn in turns)


def spent(turns: Sequence[Turn]) -> float:
    """Return the median CPU seconds of both worlds together."""
    return statistics.median(turn[1] + turn[2] for turn in turns)


def row(arm: Arm, found: dict[str, list[Turn]]) -> dict[str, Any]:
    """Return the figures of one arm."""
    turns, whole, none = found[arm.name], found["whole"], found["no shield"]
    trusted, outside = (statistics.median(turn[place] for turn in turns) for place in (1, 2))
    reference, predicted = spent(whole), arm.plan.total
    saved = reference - trusted
    return {
        "arm": arm.name,
        "after": arm.after,
        "rule": arm.plan.rule.partition(",")[0],
        "device": arm.device,
        "bit-equal": True,  # or this row would not be reached
        "wall ms": [1e3 * part for part in interval(turns, turns, lambda a, _: wall(a))],
        "CPU ms": [1e3 * part for part in interval(turns, turns, lambda a, _: spent(a))],
        "CPU ms trusted": 1e3 * trusted,
        "CPU ms worker": 1e3 * outside,
        "masks CPU ms": 1e3 * arm.masks,
        "speed-up over whole": interval(turns, whole, lambda a, b: wall(b) / wall(a)),
        "speed-up over no shield": interval(turns, none, lambda a, b: wall(b) / wall(a)),
        "speed-up over whole, CPU": interval(turns, whole, lambda a, b: spent(b) / spent(a)),
        "speed-up over no shield, CPU": interval(turns, none, lambda a, b: spent(b) / spent(a)),
        "most": reference / trusted if outside else 1.0,
        "even": outside / saved if outside and saved > 0 else None,
        "predicted ms": 1e3 * predicted.seconds,
        "predicted over CPU": predicted.seconds / spent(turns),
        "predicted over least": predicted.seconds / min(turn[1] + turn[2] for turn in turns),
        "crossings": predicted.crossings,
        "bytes": predicted.bytes,
        "memory": predicted.memory,
        **revealed(arm.plan),
    }


def revealed(made: Plan) -> dict[str, Any]:
    """Return where MACs are computed, as shares, and what the worker sees."""
    total = sum(part.node.macs for part in made.rows)
    shares: dict[str, float] = {}
    for part in made.rows:
        shares[part.placement] = shares.get(part.placement, 0.0) + part.node.macs / total
    seen = [asdict(SIGHTS[word]) for word in shares if word != "trusted"]
    return {"MACs": shares, "worker sees": seen, "believed": shares.get("exposed", 0.0) + shares.get("probed", 0.0)}


def claim(name: str, count: int, device: str = "cpu") -> tuple[_harness.Result, list[dict[str, Any]], Machine]:
    """Measure one network: the blinded session against the whole model, and all arms."""
    torch.set_num_threads(1)
    net, inputs = network(name)
    x, model = inputs[:1], export(net, inputs[:1], inputs)
    machine = measure(worker_options=("--device", device))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the worker has the last
    with ExitStack() as stack:
        ready = [stack.enter_context(arm) for arm in arms(model, x, machine, device)]
        found = rounds(ready, x, model(x), count)
        rules = [row(arm, found) for arm in ready]
    pairs = [(ours[0], peer[0]) for ours, peer in zip(found["all blinded"], found["whole"], strict=True)]
    text = f"{name}: one sample blinded and checked in two processes, against the whole model in the trusted one"
    result = _harness.summarise(text, pairs, peer_name="whole model in the trusted world", unit="s")
    return result, rules, machine


def lines(rules: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield one line an arm for people."""
    for item in rules:
        parts = [f"{item['arm']:>12}: {item['wall ms'][0]:.1f} ms wall"]
        parts += [f"CPU {item['CPU ms trusted']:.1f} + {item['CPU ms worker']:.1f} = {item['CPU ms'][0]:.1f} ms"]
        for key in (key for key in item if key.startswith("speed-up")):
            value, low, high = item[key]
            parts += [f"{key.removeprefix('speed-up ')} {value:.2f} [{low:.2f}, {high:.2f}]"]
        parts += [f"predicted {item['predicted ms']:.1f} ms", f"{item['predicted over CPU']:.2f} of CPU"]
        parts += [f"{item['predicted over least']:.2f} of the least"]
        yield "; ".join([*parts, f"at most {item['most']:.2f}", f"believed {item['believed']:.0%}"])


def table(file: Path) -> Iterator[str]:
    """Yield stored results as lines of Markdown."""
    found = json.loads(file.read_text())
    yield f"{found['network']}, medians of {found['n']}:\n"
    yield "| arm | ms | CPU ms of both | over whole | over no shield | the same by CPU | predicted | believed |"
    yield "|---|---|---|---|---|---|---|---|"
    for item in found["rules"]:
        over = [
            f"{value:.2f} ({low:.2f} .. {high:.2f})"
            for value, low, high in (item["speed-up over whole"], item["speed-up over no shield"])
        ]
        by_cpu = " / ".join(f"{item[f'speed-up over {peer}, CPU'][0]:.2f}" for peer in ("whole", "no shield"))
        name = f"{item['arm']} ({item['after']})" if item["after"] else item["arm"]
        cells = [
            name,
            f"{item['wall ms'][0]:.0f}",
            f"{item['CPU ms trusted']:.1f} + {item['CPU ms worker']:.1f}",
            *over,
        ]
        cells += [by_cpu, f"{item['predicted over CPU']:.2f}", f"{item['believed']:.0%}"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--network", default=NETWORK, help="cifar-resnet20, resnet18, vgg19, mobilenet_v2, vit_small, llama-260k"
    )
    parser.add_argument("--device", default="cpu", help="where workers of sessions compute, such as cuda")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timings of every arm; 3 for a quick look")
    parser.add_argument(
        "--table", nargs="+", type=Path, metavar="FILE", help="print stored results as Markdown, and end"
    )
    options = parser.parse_args()
    if options.table:
        print("\n".join(line for file in options.table for line in (*table(file), "")))
        return
    result, rules, machine = claim(options.network, options.rounds, options.device)
    if options.json:
        facts = {"rules": rules, "laws": machine.to_json(), "paper": PAPER, "network": options.network}
        print(json.dumps(asdict(result) | facts, sort_keys=True))
        return
    print(f"{result.claim}: ratio {result.ratio:.3g} [{result.low:.3g}, {result.high:.3g}]")
    for line in lines(rules):
        print(line)


if __name__ == "__main__":
    main()
