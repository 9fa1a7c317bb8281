"""Every published rule of who computes what, on one graph and one code: predicted for all, measured where sessions run.

Wall-clock seconds of one sample through a session in two processes against the whole model in the trusted world, in
alternating order, the trusted world on one core and the worker on another; beside it what the planner predicted from
laws measured in the same run. Rules that leave answers unchecked are predicted only: no session runs them. Budgets of
first-k and last-k are a half of what the whole model needs; sensitivities of the deadline rule come from fault
injection. TSQP's paper states a speed-up of more than 8 over the whole model in an enclave; here both worlds are one
kind of core.

    python -m benchmarks.shield_baselines [--json] [--network cifar-resnet20 | NAME of torchvision]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _harness
from holdfast import BitFlip, campaign, dataset
from holdfast.models import build_architecture, load
from holdfast.shielding import Session, shield
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import Machine, measure, plan, workload
from holdfast.shielding.planner.rules import stages

SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
REPEATS = 9
TRIALS = 20
_CAMPAIGN = 64  # pixels a side, above which sensitivities take too long
RUN_BY_SESSIONS = {"trusted", "verified", "blinded"}
NETWORK = "cifar-resnet20"
CORES = sorted(os.sched_getaffinity(0))


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and a few inputs."""
    generator = torch.Generator().manual_seed(1)
    if name == NETWORK:
        weights = SHARED / "resnet-cifar10" / "resnet20-12fca82f.th"
        net = load(weights, arch=name) if weights.exists() else build_architecture(name)
        return net.eval(), torch.randn(4, 3, 32, 32, generator=generator)
    from tests.unit.shielding.graph.nets import seeded
    from tests.unit.shielding.graph.vision import NETWORKS

    return seeded(NETWORKS[name]), torch.randn(2, 3, 224, 224, generator=generator)


def measured(model: IntegerModel, x: Tensor, placements: Any) -> list[tuple[float, float]]:
    """Return pairs of wall seconds of one sample: through a session with masks prepared, and whole."""
    with apart(), shield(model, placements=placements, timeout=600.0) as session:
        _pin_worker(session)
        session.prepare(REPEATS + 2)
        for _ in range(2):
            session(x)
            model(x)
        return [(_wall(lambda: session(x)), _wall(lambda: model(x))) for _ in range(REPEATS)]


@contextmanager
def apart() -> Iterator[None]:
    """Keep this process on its first core, where there are two."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _pin_worker(session: Session) -> None:
    """Give the worker, which was born on our core, the last core to itself."""
    owner = session._owner
    if owner is None:
        raise RuntimeError("the worker is no child of ours")
    for task in Path(f"/proc/{owner.process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {CORES[-1]})


def _wall(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def sensitivities(net: nn.Module, model: IntegerModel) -> dict[str, float]:
    """Return for each multiplying node the share of bit flips in its output that change the label."""
    data = dataset(f"synthetic:n=16,size={model.input_shape[-1]},channels={model.input_shape[0]}")
    result = {}
    for node in workload(model).nodes:
        if node.macs:
            found = campaign(net, data, BitFlip(), at=f"activations:{node.name}", trials=TRIALS, seed=0)["critical"]
            result[node.name] = found.value
    return result


def rules(model: IntegerModel, net: nn.Module, machine: Machine, folder: Path) -> Iterator[tuple[str, int | None]]:
    """Yield specifications with budgets."""
    whole = plan(model, "whole", machine=machine)
    yield from (("whole", None), ("none", None), ("tsqp", None), ("slalom", None), ("slalom:private=false", None))
    yield from (("optimal", None), ("optimal", int(whole.total.memory * 0.9)))
    yield from (("first-k", whole.total.memory // 2), ("last-k", whole.total.memory // 2))
    if len(stages(workload(model))) < 40 and model.input_shape[-1] <= _CAMPAIGN:
        file = folder / "sensitivity.json"
        file.write_text(json.dumps(sensitivities(net, model)))
        none = plan(model, "none", machine=machine).total.seconds
        yield f"deadline:seconds={max(none, whole.total.seconds) * 1.05},sensitivity={file}", None


def rows(model: IntegerModel, net: nn.Module, x: Tensor, machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield each rule's plan, and the measured latency where a session runs it."""
    with tempfile.TemporaryDirectory() as folder:
        for rule, budget in rules(model, net, machine, Path(folder)):
            yield row(model, x, machine, rule, budget)


def row(model: IntegerModel, x: Tensor, machine: Machine, rule: str, budget: int | None) -> dict[str, Any]:
    """Return the figures of one rule; a plan that does not fit says so."""
    try:
        made = plan(model, rule, machine=machine, budget=budget)
    except ValueError as error:
        return {"rule": rule.partition(",")[0], "budget": budget, "refused": str(error)}
    total, macs = made.total, sum(part.node.macs for part in made.rows)
    found: dict[str, Any] = {
        "rule": rule.partition(",")[0],
        "budget": budget,
        "predicted ms": 1e3 * total.seconds,
        "crossings": total.crossings,
        "bytes": total.bytes,
        "memory": total.memory,
        "MACs trusted": sum(part.node.macs for part in made.rows if part.world == "trusted") / macs,
    }
    words = set(made.placements.values())
    if words <= RUN_BY_SESSIONS and words != {"trusted"}:
        found |= _figures(measured(model, x, made.placements))
    return found


def _figures(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    result = _harness.summarise("", pairs, peer_name="whole", unit="s")
    least = min(session for session, _ in pairs), min(whole for _, whole in pairs)
    return {"measured ms": 1e3 * result.ours, "whole ms": 1e3 * result.peer,
            "least ms": [1e3 * least[0], 1e3 * least[1]],
            "speed-up over whole": [1 / result.ratio, 1 / result.high, 1 / result.low]}  # fmt: skip


def claim(name: str) -> tuple[_harness.Result, list[dict[str, Any]]]:
    """Measure one network: the blinded session against the whole model, and all rules."""
    torch.set_num_threads(1)
    net, inputs = network(name)
    model = export(net, inputs[:1], inputs)
    machine = measure()
    pairs = measured(model, inputs[:1], "blinded")
    text = f"{name}: one sample blinded and checked in two processes, against the whole model in the trusted one"
    result = _harness.summarise(text, pairs, peer_name="whole model in the trusted world", unit="s")
    return result, list(rows(model, net, inputs[:1], machine))


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--network", default=NETWORK, help="cifar-resnet20, resnet18, vgg19, mobilenet_v2, vit_small")
    options = parser.parse_args()
    result, table = claim(options.network)
    if options.json:
        print(json.dumps(asdict(result) | {"rules": table}, sort_keys=True))
        return
    print(f"{result.claim}: ratio {result.ratio:.3g} [{result.low:.3g}, {result.high:.3g}]")
    for line in table:
        print(
            "  "
            + ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items()
            )
        )


if __name__ == "__main__":
    main()
