"""A shielded model with a GPU as the worker, against the whole model on the trusted core and the GPU without a shield.

The trusted world is one core of the processor; the worker is a process under another user that multiplies on the GPU.
Arms are open at once and take turns; masks are prepared before each call and their CPU time is told apart. Single
samples get one call to warm up before each that counts. A larger batch, whose own caches are cold at its start
anyway, gets fewer rounds and one warm-up in all: on one core a batch of VGG-19 and its masks take half a minute.
Every shielded answer equals the plaintext int8 model of the trusted core bit for bit, or there is no row. Without a
shield the GPU computes the float network itself, from pageable memory and back, in float32 and in bfloat16.
Wall-clock medians; speed-ups with 95 % bootstraps over rounds.

    python -m benchmarks.gpu_shield [--json] [--network resnet18 vgg19 vit_small] [--batch 1 32] [--rounds 7]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _gpu, _harness
from benchmarks._shield_arms import Arm, _session, network, within
from benchmarks.shield_baselines import PAPER, Turn, interval, revealed, timed, wall
from holdfast._device import known_device
from holdfast.errors import IntegrityError
from holdfast.seeds import derive
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import Machine, measure, plan
from holdfast.shielding.transport.spawn import KERNEL_FOLDER, kernel_folder, remove_folder

NETWORKS, BATCHES, ROUNDS = ("resnet18", "vgg19", "vit_small"), (1, 32), 7
_FEWEST = 3  # rounds of a batch
SHIELDED = ("all verified", "all blinded", "planner")
WHOLE, PLAIN = "whole", "GPU, float32"


@dataclass(frozen=True)
class ShieldResult(_harness.Result):
    """A claim; ``cases`` are all arms of all networks and batches."""

    cases: list[dict[str, Any]]
    laws: dict[str, Any]
    paper: str


def arms(model: IntegerModel, machine: Machine, device: str) -> Iterator[Arm]:
    """Yield the whole model on the trusted core, and every shielded way to it, with its worker running."""
    whole = plan(model, "whole", machine=machine)
    yield Arm(WHOLE, "MLCapsule", whole, model)
    rules = {"all verified": ("Slalom", "slalom:private=false"), "all blinded": ("Slalom, private", "slalom")}
    for name, (after, rule) in rules.items():
        yield _session(name, after, model, plan(model, rule, machine=machine), device=device)
    made = within(model, machine, whole.total.memory)
    yield _session("planner", "Holdfast, 0.9 of the memory", model, made, device=device)


def unshielded(net: nn.Module, device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the network on the device: floats in, floats out, the host's memory on both sides."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, dtype in ((PLAIN, torch.float32), ("GPU, bfloat16", torch.bfloat16)):
        there = copy.deepcopy(net).to(device, dtype).eval()
        found[name] = lambda x, there=there, dtype=dtype: there(x.to(device, dtype)).float().cpu()
    return found


def turns(
    shielded: Sequence[Arm], plain: dict[str, Callable[[Tensor], Tensor]], x: Tensor, wanted: Tensor, count: int
) -> dict[str, list[Turn]]:
    """Return ``count`` timings of everything, taken in turns; what differs from the int8 model in a bit has none."""
    found: dict[str, list[Turn]] = {name: [] for name in (*(arm.name for arm in shielded), *plain)}
    single = len(x) == 1
    for number in range(count + 1):
        for arm in shielded:
            arm.prepare(2 * len(x) if single else len(x))
            if single:
                arm.call(x)  # finds the caches as the arm before left them
            output, turn = timed(arm, x)
            if not torch.equal(output, wanted):
                raise IntegrityError(f"arm {arm.name} does not equal the plaintext int8 model")
            found[arm.name] += [turn] * (number > 0)
        for name, call in plain.items():
            call(x)
            start, ours = time.perf_counter(), time.process_time()
            call(x)
            spent = time.perf_counter() - start, time.process_time() - ours, 0.0
            found[name] += [spent] * (number > 0)
    return found


def row(name: str, batch: int, arm: str, found: dict[str, list[Turn]]) -> dict[str, Any]:
    """Return the figures of one arm."""
    ours = found[arm]
    return {
        "network": name, "batch": batch, "arm": arm, "n": len(ours),
        "ms": [1e3 * part for part in interval(ours, ours, lambda a, _: wall(a))],
        "trusted CPU ms": 1e3 * statistics.median(turn[1] for turn in ours),
        "speed-up over whole": interval(ours, found[WHOLE], lambda a, b: wall(b) / wall(a)),
        "slow-down to GPU": interval(ours, found[PLAIN], lambda a, b: wall(a) / wall(b)),
    }  # fmt: skip


def shield_row(arm: Arm, case: dict[str, Any]) -> dict[str, Any]:
    """Add to an arm's figures what its plan says and what its masks cost beforehand."""
    total = arm.plan.total
    facts = {"after": arm.after, "masks CPU ms a sample": 1e3 * arm.masks, "crossings": total.crossings}
    return case | facts | {"bytes a sample": total.bytes, "predicted ms a sample": 1e3 * total.seconds,
                           "device": arm.device, "bit-equal": True, **revealed(arm.plan)}  # fmt: skip


def one(
    name: str, batch: int, count: int, machine: Machine, device: str
) -> tuple[list[dict[str, Any]], dict[str, list[Turn]]]:
    """Measure one network at one batch size; return a row an arm, and the timings."""
    net, inputs = network(name)
    model = export(net, inputs[:1], inputs)
    draw = derive(0, "gpu-shield", name).torch()
    x = torch.randn(batch, *inputs.shape[1:], generator=draw)
    with ExitStack() as stack, torch.no_grad():
        ready = [stack.enter_context(arm) for arm in arms(model, machine, device)]
        plain = unshielded(net, device)
        found = turns(ready, plain, x, model(x), count if batch == 1 else max(_FEWEST, count // 2))
    by_name = {arm.name: arm for arm in ready}
    rows = [row(name, batch, arm, found) for arm in found]
    return [shield_row(by_name[case["arm"]], case) if case["arm"] in by_name else case for case in rows], found


def claim(
    names: Sequence[str] = NETWORKS, batches: Sequence[int] = BATCHES, count: int = ROUNDS, device: str = "cuda"
) -> ShieldResult:
    """Measure everything; the headline is the best shielded arm of the first network and batch."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases: list[dict[str, Any]] = []
    pairs: list[tuple[float, float]] = []
    with kernels_kept():
        machine = measure(worker_options=("--device", device))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the worker has the last
        for name in names:
            for batch in batches:
                rows, found = one(name, batch, count, machine, device)
                cases += rows
                best = min((arm for arm in SHIELDED if arm in found), key=lambda arm: wall(found[arm]))
                pairs = pairs or [(b[0], a[0]) for a, b in zip(found[best], found[WHOLE], strict=True)]
    text = f"{names[0]}, batch {batches[0]}: the whole model on the trusted core, against the quickest shielded way"
    result = _harness.summarise(text, pairs, peer_name="shielded, with a GPU as the worker", unit="s")
    facts = asdict(result) | {"machine": _gpu.machine()}
    return ShieldResult(**facts, cases=cases, laws=machine.to_json(), paper=PAPER)


@contextmanager
def kernels_kept() -> Iterator[None]:
    """Let all workers of a run share what the first compiles; it is theirs, and no other process reads it."""
    if os.environ.get(KERNEL_FOLDER):
        yield
        return
    root = os.geteuid() == 0
    folder = kernel_folder("nobody") if root else Path(tempfile.mkdtemp(prefix="holdfast-kernels-"))
    os.environ[KERNEL_FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[KERNEL_FOLDER]
        remove_folder(folder)


def lines(cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield one line an arm for people."""
    for case in cases:
        over, under = case["speed-up over whole"], case["slow-down to GPU"]
        yield (
            f"{case['network']:>10} x{case['batch']:<3} {case['arm']:>14}: {case['ms'][0]:9.2f} ms, "
            f"trusted CPU {case['trusted CPU ms']:9.2f} ms; over whole {over[0]:.2f} [{over[1]:.2f}, {over[2]:.2f}]; "
            f"{under[0]:.2f} [{under[1]:.2f}, {under[2]:.2f}] times the GPU alone"
        )


def main() -> None:
    """Run as a command: lines for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--network", nargs="+", default=NETWORKS, help="resnet18, vgg19, vit_small, mobilenet_v2, ...")
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES, help="samples at a time")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timings of every arm; 3 for a quick look")
    parser.add_argument("--device", default="cuda", help="cpu to see that it runs; then no figure means anything")
    options = parser.parse_args()
    if known_device(options.device).type == "cuda":
        _gpu.require_device()
    result = claim(options.network, options.batch, options.rounds, options.device)
    if options.json:
        print(json.dumps(asdict(result), sort_keys=True))
        return
    print(f"{result.claim}: {result.ratio:.3g} [{result.low:.3g}, {result.high:.3g}]; the paper: {PAPER}")
    for line in lines(result.cases):
        print(line)


if __name__ == "__main__":
    main()
