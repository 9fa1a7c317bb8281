"""The arms of :mod:`benchmarks.shield_baselines`: each rule's plan, and something that executes it."""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._exposed import Probed, Split
from holdfast.errors import InvalidConfig
from holdfast.models import build_architecture, load
from holdfast.seeds import derive
from holdfast.shielding import Session, integer_layers, shield
from holdfast.shielding.graph import IntegerModel
from holdfast.shielding.planner import Law, Laws, Machine, Plan, PrivateAdapters, plan, public_nodes, workload
from holdfast.shielding.planner.chain import stages
from holdfast.shielding.planner.plan import assemble

SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SHARE = 0.2  # of the MACs: what first-k, last-k keep in the trusted world
PRIVATE = 0.05  # of the weights: what an adapter holds
MEMORY = 0.9  # of what the whole model needs: the planner's budget
SLOWER = 2.0  # how much slower a trusted world the deadline rule is planned for
TRIALS, STRUCK = 3, 0.02  # faults in the output of each stage, and the share of elements that each strikes
_CPU_OF_ALL_THREADS = 2  # Linux: the clock of process p is ~p << 3, with what it counts in the low bits
CORE = max(os.sched_getaffinity(0))


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and a few inputs."""
    generator = torch.Generator().manual_seed(1)
    if name == "cifar-resnet20":
        weights = SHARED / "resnet-cifar10" / "resnet20-12fca82f.th"
        net = load(weights, arch=name) if weights.exists() else build_architecture(name)
        return net.eval(), torch.randn(4, 3, 32, 32, generator=generator)
    if name == "llama-260k":
        return load(SHARED / "tiny-llama-260k"), torch.randint(3, 512, (2, 64), generator=generator)
    from tests.unit.shielding.graph.nets import seeded
    from tests.unit.shielding.graph.vision import NETWORKS

    return seeded(NETWORKS[name]), torch.randn(2, 3, 224, 224, generator=generator)


@dataclass(slots=True)
class Arm:
    """One rule, planned and executed; a context manager that ends its worker.

    Attributes:
        name, after: of the row.
        plan: what is predicted.
        call: from an input to the output.
        device: of its worker.
        masks: CPU seconds of the trusted world to prepare the masks of one sample.
    """

    name: str
    after: str
    plan: Plan
    call: Callable[[Tensor], Tensor]
    make_masks: Callable[[int], None] | None = None
    worker: int | None = None
    end: Callable[[], None] | None = None
    device: str = "cpu"
    masks: float = 0.0

    def prepare(self, samples: int) -> None:
        """Prepare masks for ``samples`` inputs."""
        if self.make_masks is not None:
            start = time.process_time()
            self.make_masks(samples)
            self.masks = (time.process_time() - start) / samples

    def worker_seconds(self) -> float:
        """Return the CPU seconds that the worker has spent since it was born."""
        return 0.0 if self.worker is None else time.clock_gettime(~self.worker << 3 | _CPU_OF_ALL_THREADS)

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.end is not None:
            self.end()


def arms(model: IntegerModel, x: Tensor, machine: Machine, device: str = "cpu") -> Iterator[Arm]:
    """Yield every arm, with its worker running, for inputs like ``x`` (1, *sample).

    Workers of sessions compute on ``device``; regions that are exposed or probed stay on the processor.
    """
    whole, session = plan(model, "whole", machine=machine), partial(_session, device=device)
    yield Arm("whole", "MLCapsule", whole, model)
    yield _split("no shield", "", model, plan(model, "none", machine=machine))
    for rule, after in (("last-k", "DarkneTZ"), ("first-k", "Serdab")):
        k = fewest(model, last=rule == "last-k")
        yield _split(rule, after, model, plan(model, f"{rule}:k={k}", machine=machine))
    yield _split("deadline", "AegisDNN", model, deadline(model, x, machine))
    yield _probed("probes", "TSQP", model, x, plan(model, "tsqp", machine=machine))
    yield session("all blinded", "Slalom, private", model, plan(model, "slalom", machine=machine))
    yield session("all verified", "Slalom", model, plan(model, "slalom:private=false", machine=machine))
    adapters = PrivateAdapters(public=public_nodes(model, public_twin(model)))
    yield session("adapters", "TEESlice", model, plan(model, adapters, machine=machine))
    yield session("planner", "Holdfast, 0.9 of the memory", model, within(model, machine, whole.total.memory))


def within(model: IntegerModel, machine: Machine, memory: int) -> Plan:
    """Return the planner's choice with ``MEMORY`` of what the whole model needs; without a limit if masks need more."""
    try:
        return plan(model, machine=machine, budget=int(memory * MEMORY))
    except InvalidConfig:
        return plan(model, machine=machine)


def fewest(model: IntegerModel, *, last: bool) -> int:
    """Return how many stages from one end hold ``SHARE`` of the MACs."""
    chain = stages(workload(model))
    sizes = [sum(node.macs for node in part) for part in (chain[::-1] if last else chain)]
    return next(k for k in range(1, len(sizes) + 1) if sum(sizes[:k]) >= SHARE * sum(sizes))


def public_twin(model: IntegerModel) -> IntegerModel:
    """Return a model that shares all weights but the head's and those of the lightest layers, which are private."""
    twin = copy.deepcopy(model)
    layers = list(integer_layers(twin).values())
    room = PRIVATE * sum(layer.codes.numel() for layer in layers)
    private = [layers[-1]]
    for layer in sorted(layers[:-1], key=lambda layer: layer.codes.numel()):
        if sum(part.codes.numel() for part in private) + layer.codes.numel() <= room:
            private.append(layer)
    for layer in private:
        layer.codes.neg_().clamp_(-127, 127)
    return twin


def deadline(model: IntegerModel, x: Tensor, machine: Machine) -> Plan:
    """Return the deadline rule's plan for a trusted world that is slower, half way between all in and all out.

    Where both worlds are equally fast its program keeps everything in, and there is nothing to see.
    """
    slow = replace(machine, trusted=_slower(machine.trusted))
    first, last = (plan(model, rule, machine=slow).total.seconds for rule in ("none", "whole"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sensitivity.json"
        file.write_text(json.dumps(sensitivities(model, x)))
        made = plan(model, f"deadline:seconds={(first + last) / 2},sensitivity={file}", machine=slow)
    words = {part.node.name: part.placement for part in made.rows}
    return assemble(workload(model), words, machine, rule=made.rule, budget=None)


def _slower(laws: Laws) -> Laws:
    def law(one: Law) -> Law:
        return Law(**{name: SLOWER * getattr(one, name) for name in Law.__dataclass_fields__})

    return Laws(conv2d=law(laws.conv2d), linear=law(laws.linear))


def sensitivities(model: IntegerModel, x: Tensor) -> dict[str, float]:
    """Return for each multiplying node how far faults in its output move that for ``x``: 1 is its own length, or more.

    AegisDNN counts wrong labels; networks with weights from a seed hardly change theirs.
    """
    wanted = model(x)
    result = {}
    for name in (node.name for node in workload(model).nodes if node.macs):
        draw = derive(0, "shield-baselines", name).torch()
        handle = model.get_submodule(name).register_forward_hook(lambda _, __, y, draw=draw: struck(y, draw))
        moved = [float((model(x) - wanted).norm() / wanted.norm()) for _ in range(TRIALS)]
        handle.remove()
        result[name] = statistics.mean(min(far, 1.0) if math.isfinite(far) else 1.0 for far in moved)
    return result


def struck(y: Tensor, draw: torch.Generator) -> Tensor:
    """Return float32 ``y`` with one bit flipped in each of ``STRUCK`` of its elements."""
    words = y.clone().contiguous().view(torch.int32).view(-1)
    count = max(1, round(STRUCK * words.numel()))
    places = torch.randint(words.numel(), (count,), generator=draw)
    bits = torch.bitwise_left_shift(torch.ones(count, dtype=torch.int64), torch.randint(32, (count,), generator=draw))
    words[places] ^= bits.to(torch.int32)
    return words.view(torch.float32).view(y.shape)


def _split(name: str, after: str, model: IntegerModel, made: Plan) -> Arm:
    split = Split(model, {part.node.name: part.placement for part in made.rows}, core=CORE)
    return Arm(name, after, made, split, worker=split.outside.process, end=split.outside.close)


def _probed(name: str, after: str, model: IntegerModel, x: Tensor, made: Plan) -> Arm:
    names = frozenset(part.node.name for part in made.rows if part.placement == "probed")
    probed = Probed(model, names, core=CORE)
    return Arm(name, after, made, probed, lambda count: probed.prepare(x, count), probed.outside.process,
               probed.outside.close)  # fmt: skip


def _session(name: str, after: str, model: IntegerModel, made: Plan, *, device: str) -> Arm:
    placements: Any = made.placements
    if set(placements.values()) == {"trusted"}:
        return Arm(name, f"{after}: keeps everything", made, model)
    session = shield(model, placements=placements, timeout=600.0, worker_options=("--device", device))
    return Arm(name, after, made, session, session.prepare, _pinned(session), session.close, device)


def _pinned(session: Session) -> int:
    """Give the worker, which was born on our core, the last core to itself; return its process."""
    owner = session._owner
    if owner is None:
        raise RuntimeError("the worker is no child of ours")
    for task in Path(f"/proc/{owner.process.pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {CORE})
    return owner.process.pid
