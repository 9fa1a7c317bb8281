"""What a placement is worth against somebody who keeps what he sees: accuracy and fidelity of copies.

A victim is fine-tuned from a public model on a private task, exported to int8, placed by each published rule, and
stolen (KnockoffNets; every arm has the same questions, the same fresh weights and the same judge). The whole model in
the trusted world is the black-box bar, and the most frequent class is chance. The private task is the public one in
photographic negative. ``digits`` repeats over seeds: public model, victim, attacker and judge have disjoint images.
``cifar10`` takes a published ResNet-20; the attacker's images are other training images, the judge's are test images.

    HOLDFAST_CIFAR10=... python -m benchmarks.model_stealing [--json] [--task digits|cifar10] [--seeds 3]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import _harness
from holdfast.data import Dataset, dataset
from holdfast.execution import accuracy
from holdfast.models import build_architecture, load
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import PrivateAdapters, public_nodes, rules
from holdfast.shielding.theft import Knockoff, Theft, View, folded, overall, view_under
from holdfast.training import DeSimilarity, Standard, train
from holdfast.training.recipes import Schedule

SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
STRENGTHS = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Task:
    """A public model, a private task and an attacker.

    Attributes:
        public: what everybody has.
        own: the owner's training data; calibration too.
        pool: the attacker's images.
        test: the judge.
        tuning: of the victim.
        ends: stages kept by first-k and last-k.
    """

    public: nn.Module
    own: Dataset
    pool: Dataset
    test: Dataset
    tuning: Schedule
    budgets: tuple[int, ...]
    knockoff: Knockoff
    ends: int


def digits(seed: int) -> Task:
    """Return the digits task: thirds of the training data for public model, victim and attacker."""
    whole = dataset("digits", split="train")
    first, rest = whole.split(1 / 3, seed=seed)
    own, pool = rest.split(1 / 2, seed=seed)
    public = train(
        build_architecture("digits-cnn", seed=seed), first, Standard(schedule=Schedule(epochs=15)), seed=seed
    )
    tuning = Schedule(epochs=15, lr=0.05)
    test = dataset("digits", split="test")
    return Task(public, _negative(own), _negative(pool), _negative(test), tuning, (0, 10, 50, 200, 400), Knockoff(), 2)


def cifar10(seed: int) -> Task:
    """Return the CIFAR-10 task: a published ResNet-20, and CIFAR-10 in negative."""
    root = os.environ.get("HOLDFAST_CIFAR10", "")
    train_data, test = dataset(f"cifar10:{root}", split="train"), dataset(f"cifar10:{root}", split="test")
    public = load(SHARED / "resnet-cifar10" / "resnet20-12fca82f.th", arch="cifar-resnet20")
    chosen = train_data.split(6000 / len(train_data), seed=seed)[0]
    own, pool = chosen.split(5 / 6, seed=seed)
    judge = test.split(1000 / len(test), seed=seed)[0]
    tuning = Schedule(epochs=2, lr=0.01, batch_size=64)
    knockoff = Knockoff(steps=100, batch_size=32)
    return Task(public, _negative(own), _negative(pool), _negative(judge), tuning, (0, 100, 1000), knockoff, 10)


def _negative(data: Dataset) -> Dataset:
    """Return ``data`` as photographic negatives: the private task, near the public one and not it."""
    top = 16 if int(data.raw.max()) <= 16 else 255
    return dataclasses.replace(data, raw=(top - data.raw.int()).to(torch.uint8))


def adapted(task: Task) -> nn.Module:
    """Return a victim whose every layer but the last is the public one's, to the bit: only the last is private."""
    net = build_like(task.public)
    for value in net.parameters():
        value.requires_grad_(False)
    last = [part for part in net.modules() if isinstance(part, nn.Linear)][-1]
    optimiser = torch.optim.Adam([last.weight.requires_grad_(), last.bias.requires_grad_()], lr=0.01)
    taken: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    with torch.no_grad():
        for images, _ in task.own.batches(128):
            net(images)
    handle.remove()
    features = torch.cat(taken)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(last(features), task.own.labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval()


def build_like(net: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode."""
    import copy

    return copy.deepcopy(net).eval()


def exported(task: Task, net: nn.Module) -> IntegerModel:
    """Return the int8 model as deployed."""
    return export(net, task.own.example[None], task.own.take(128))


def views(task: Task, graph: IntegerModel) -> dict[str, View]:
    """Return what each rule shows of a victim."""
    words = {
        "whole (MLCapsule)": "whole",
        f"last {task.ends} stages inside (DarkneTZ)": f"last-k:k={task.ends}",
        f"first {task.ends} stages inside (Serdab)": f"first-k:k={task.ends}",
        "scales hidden (TSQP; codes as under Slalom)": "tsqp",
        "none": "none",
    }
    return {name: view_under(graph, rules.build(rule)) for name, rule in words.items()}


def arms(task: Task, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a curve for every victim, placement and prior."""
    known = {name: layer.weight for name, layer in folded(task.public, task.own.example[None]).items()}
    for strength in STRENGTHS:
        net = train(task.public, task.own, DeSimilarity(strength=strength, schedule=task.tuning), seed=seed)
        graph = exported(task, net)
        codes = {name: graph.get_submodule(name).codes for name in graph.bounds()}
        facts = {
            "victim": f"fine-tuned, de-similarity {strength}",
            "similarity": dataclasses.asdict(overall(codes, known)[1]),
        }
        shown = views(task, graph)
        if strength:
            shown = {name: seen for name, seen in shown.items() if name.startswith(("whole", "scales"))}
        yield from curves(task, net, graph, shown, facts, seed)
    net = adapted(task)
    graph = exported(task, net)
    rule = PrivateAdapters(public=public_nodes(graph, exported(task, task.public)))
    shown = {"private last layer (TEESlice's way)": view_under(graph, rule)}
    yield from curves(task, net, graph, shown, {"victim": "public but for the last layer"}, seed)


def curves(
    task: Task, net: nn.Module, graph: IntegerModel, shown: dict[str, View], facts: dict[str, Any], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the curves of one victim, without and with the public model."""
    attack = Theft(victim=graph, architecture=net, pool=task.pool, test=task.test, knockoff=task.knockoff, seed=seed)
    questions, told = attack.questions(max(task.budgets)), attack.answers()
    bars = {"victim accuracy": attack.victim_accuracy().value, "chance": attack.chance().value}
    bars["public accuracy"] = accuracy(task.public, task.test).value
    for name, seen in shown.items():
        for public in (None, task.public):
            if name == "none" and public is not None:
                continue
            budgets = (0,) if name == "none" else task.budgets
            curve = attack.curve(seen, budgets, public=public, questions=questions, told=told)
            yield {"seed": seed, "placement": name, "public": public is not None, **facts, **bars, **curve.to_json()}


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield one line per victim, placement and prior: fidelity by budget, mean of seeds [least low, greatest high]."""
    groups: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["victim"], row["placement"], row["public"]), []).append(row)
    for (victim, placement, public), found in groups.items():
        cells = []
        for number, point in enumerate(found[0]["points"]):
            each = [row["points"][number] for row in found]
            like, right = ([one[key] for one in each] for key in ("fidelity", "accuracy"))
            cells.append(
                f"{point['budget']}: {_mean(like):.1%} [{min(_low(x) for x in like):.1%}, "
                f"{max(_high(x) for x in like):.1%}] acc {_mean(right):.1%}"
            )
        own = statistics.fmean(row["victim accuracy"] for row in found)
        yield f"{victim} ({own:.1%}) | {placement} | {'public known' if public else 'no prior'} | " + " | ".join(cells)


def _mean(values: Sequence[dict[str, Any]]) -> float:
    return statistics.fmean(float(value["value"]) for value in values)


def _low(value: dict[str, Any]) -> float:
    return float(value["low"])


def _high(value: dict[str, Any]) -> float:
    return float(value["high"])


def main() -> None:
    """Run as a command: a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--task", choices=("digits", "cifar10"), default="digits")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions: public model, victim, questions, weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, rows = time.process_time(), []
    for seed in range(options.seeds):
        for row in arms(digits(seed) if options.task == "digits" else cifar10(seed), seed):
            rows.append(row)
            if not options.json:
                print("\n".join(table([row])), flush=True)
    spent = time.process_time() - began
    if options.json:
        print(json.dumps({"task": options.task, "curves": rows, "cpu_seconds": spent, "machine": _harness.machine()}))
        return
    print("\n".join(table(rows)))
    print(f"{spent:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
