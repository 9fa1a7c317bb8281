"""What a placement is worth against somebody who keeps what he sees: accuracy and fidelity of copies.

Victims come from a public model: fine-tuned whole, fine-tuned with de-similarity, with private slices beside a public
backbone (after TEESlice), or with a private last layer alone. Each is exported to int8, placed by every rule of the
planner, and stolen (KnockoffNets). All arms of a seed have the same questions, fresh weights, order of training and
judge; a copy is set against the black-box bar, the whole model in the trusted world, image by image. ``digits`` repeats
everything over seeds: public model, victim, attacker and judge have disjoint images. ``cifar10`` takes a published
ResNet-20; the attacker's images are other training images, the judge's are test images.

    HOLDFAST_CIFAR10=... python -m benchmarks.model_stealing [--json] [--task digits|cifar10] [--seeds 5] [--out FILE]
        [--victim fine-tuned ...]

With ``--out`` every arm is written as it is done, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _harness
from benchmarks._stealing import TASKS, VICTIMS, Task
from benchmarks._stealing_report import line, tables
from holdfast import BitFlip, campaign
from holdfast._files import write_atomic
from holdfast.execution import accuracy
from holdfast.shielding.graph import IntegerModel, export
from holdfast.shielding.planner import Law, Laws, Machine, PrivateAdapters, Rule, protect, public_nodes, rules, workload
from holdfast.shielding.planner.costs import cost
from holdfast.shielding.theft import Curve, Point, Theft, TransferSet, View, folded, overall, view, view_under

BAR = "whole (MLCapsule)"
ADAPTERS = "private-adapters (TEESlice)"
CODES = "tsqp"
STRIKES = 20  # bit flips per node, for the sensitivities of the deadline rule


def _laws(macs: float) -> Laws:
    return Laws(conv2d=Law(mac=1 / macs), linear=Law(mac=1 / macs))


# of rules that weigh costs: a worker ten times as fast as the trusted world, and checks at a tenth of a product
TARGET = Machine(trusted=_laws(5e9), open=_laws(5e10), worker=_laws(5e10), check=_laws(5e10), step=1e-6,
                 elements=1e9, pads=1e9, bandwidth=5e9, crossing=1e-5)  # fmt: skip


@dataclass(frozen=True)
class Stand:
    """One victim, ready to be stolen: what every arm of it shares."""

    task: Task
    net: nn.Module
    graph: IntegerModel
    attack: Theft
    questions: TransferSet
    told: Tensor
    facts: Mapping[str, Any]
    shown: Mapping[str, View]


def exported(task: Task, net: nn.Module) -> IntegerModel:
    """Return the int8 model as deployed."""
    return export(net, task.own.example[None], task.own.take(128))


@functools.lru_cache(maxsize=1)
def prepared(name: str, seed: int) -> Task:
    """Return a task."""
    return TASKS[name](seed)


@functools.lru_cache(maxsize=4)
def stand(name: str, victim: str, seed: int) -> Stand:
    """Return a victim with all that its arms share."""
    task = prepared(name, seed)
    net = VICTIMS[victim](task, seed)
    graph = exported(task, net)
    attack = Theft(victim=graph, architecture=net, pool=task.pool, test=task.test, knockoff=task.knockoff, seed=seed)
    told = attack.answers()
    facts = {
        "victim accuracy": attack.victim_accuracy().measurement().to_json(),
        "chance": attack.chance().measurement().to_json(),
        "constant answer": attack.constant(told).measurement().to_json(),
        "public accuracy": accuracy(task.public, task.test).measurement().to_json(),
        "similarity": asdict(_similarity(task, graph)),
    }
    shown = views(task, victim, net, graph)
    return Stand(task, net, graph, attack, attack.questions(max(task.budgets)), told, facts, shown)


def _similarity(task: Task, graph: IntegerModel) -> Any:
    known = {name: layer.weight for name, layer in folded(task.public, task.own.example[None]).items()}
    return overall({name: graph.get_submodule(name).codes for name in graph.bounds()}, known)[1]


def views(task: Task, victim: str, net: nn.Module, graph: IntegerModel) -> dict[str, View]:
    """Return what every rule of the planner shows of a victim."""
    last = workload(graph).linear()[-1].name
    words = {
        BAR: "whole",
        f"last-k, {task.ends} stages (DarkneTZ)": f"last-k:k={task.ends}",
        f"first-k, {task.ends} stages (Serdab)": f"first-k:k={task.ends}",
        CODES: "tsqp",
        "slalom": "slalom",
        "slalom, values in the clear": "slalom:private=false",
        "optimal": "optimal",
        f"optimal, {last} hidden": f"optimal:hide_weights={last}",
    }
    found = {name: view_under(graph, rules.build(rule), machine=TARGET) for name, rule in words.items()}
    found["deadline (AegisDNN)"] = _under_deadline(task, net, graph)
    if victim.startswith("private"):
        rule: Rule = PrivateAdapters(public=public_nodes(graph, exported(task, task.public)))
        found[ADAPTERS] = view_under(graph, rule)
    return found | {"none": view_under(graph, rules.build("none"))}


def _under_deadline(task: Task, net: nn.Module, graph: IntegerModel) -> View:
    """Return the view where half of the extra time of protecting everything may be spent."""
    work, data = workload(graph), task.own.take(16)
    risks = {}
    for node in work.nodes:
        if node.macs:
            found = campaign(net, data, BitFlip(), at=f"activations:{node.name}", trials=STRIKES, seed=0)
            risks[node.name] = found["critical"].value
    slow, fast = (sum(cost(node, word, TARGET).seconds for node in work.nodes) for word in ("trusted", "exposed"))
    return view(graph, protect(work, TARGET, risks, (slow + fast) / 2))


def arms(task: Task, victim: str, shown: Mapping[str, View]) -> dict[str, tuple[int, ...]]:
    """Return the budgets of every placement: the bar first, and those without questions last."""
    asked = {BAR, ADAPTERS if victim.startswith("private") else CODES}
    if victim == "fine-tuned":
        asked |= {name for name in shown if name.startswith(("last-k", "first-k"))}
    return {name: task.budgets if name in asked else (0,) for name in sorted(shown, key=lambda name: name not in asked)}


def attacked(
    name: str, victim: str, seed: int, public: bool, known: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for every placement of a victim that ``known`` does not have, with or without the public model."""
    here = stand(name, victim, seed)
    rows = [dict(row) for row in known if (row["seed"], row["victim"], row["public"]) == (seed, victim, public)]
    for placement, budgets in arms(here.task, victim, here.shown).items():
        if any(row["placement"] == placement for row in rows):
            continue
        began = time.process_time()
        row = {"seed": seed, "victim": victim, "placement": placement, "public": public, **here.facts}
        equal = next((row for row in rows if _alike(here.shown[row["placement"]], here.shown[placement])), None)
        if equal is not None:
            row |= {"shows what it does": equal["placement"]}
            row |= {key: equal[key] for key in ("hidden", "parameters", "points")}
        else:
            bar = next((row for row in rows if row["placement"] == BAR), None)
            curve = here.attack.curve(here.shown[placement], budgets, public=here.task.public if public else None,
                                      questions=here.questions, told=here.told)  # fmt: skip
            row |= _figures(curve, None if bar is None else bar["agrees"])
        row["CPU seconds"] = time.process_time() - began
        rows.append(row)
        yield row


def _alike(left: View, right: View) -> bool:
    return left.keys() == right.keys() and all(
        (left[name].scale is None) == (right[name].scale is None) for name in left
    )


def _figures(curve: Curve, bar: Mapping[str, str] | None) -> dict[str, Any]:
    """Return a curve as JSON, each point with its lead over the black-box bar of the same budget."""
    found = curve.to_json()
    if bar is None:
        return found | {"agrees": {str(point.budget): _packed(point.agrees) for point in curve.points}}
    for point, words in zip(curve.points, found["points"], strict=True):
        words["ahead of the black box"] = _ahead(point, bar[str(point.budget)])
    return found


def _packed(agrees: Sequence[bool]) -> str:
    return "".join("01"[flag] for flag in agrees)


def _ahead(point: Point, bar: str) -> dict[str, Any]:
    other = Point(point.budget, point.accuracy, point.fidelity, tuple(flag == "1" for flag in bar))
    return point.ahead_of(other).measurement().to_json()


def settings(name: str) -> dict[str, Any]:
    """Return what a file that is continued must agree on."""
    task = prepared(name, 0)
    return {"task": name, "budgets": list(task.budgets), "knockoff": asdict(task.knockoff), "ends": task.ends,
            "strength": task.strength, "judged on": len(task.test), "victim trained on": len(task.own),
            "pool": len(task.pool)}  # fmt: skip


def resumed(path: Path | None, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an earlier run with the same settings."""
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["settings"] != json.loads(json.dumps(wanted)):
        raise SystemExit(f"{path} was measured with other settings; move it away")
    rows: list[dict[str, Any]] = found["curves"]
    return rows


def result(wanted: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the JSON object of a run."""
    spent = sum(row["CPU seconds"] for row in rows)
    return json.dumps({"settings": wanted, "curves": rows, "machine": _harness.machine(), "attack CPU seconds": spent})


def measured(
    name: str, victims: Sequence[str], seeds: int, out: Path | None, wanted: Mapping[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows so far after every arm, and keep them in ``out``."""
    rows = resumed(out, wanted)
    yield rows
    for seed, public, victim in product(range(seeds), (True, False), victims):
        if not public and victim.startswith("private"):
            continue  # that backbone is public by its making
        for row in attacked(name, victim, seed, public, rows):
            rows.append(row)
            if out is not None:
                write_atomic(out, (result(wanted, rows) + "\n").encode())
            yield rows


def main() -> None:
    """Run as a command: a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--task", choices=tuple(TASKS), default="digits")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions: public model, victim, questions, weights")
    parser.add_argument("--victim", choices=tuple(VICTIMS), action="append", help="repeatable; all by default")
    parser.add_argument("--out", type=Path, help="file that holds the rows, and from which a stopped run goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted, rows = settings(options.task), []
    victims = options.victim or list(VICTIMS)
    for rows in measured(options.task, victims, options.seeds, options.out, wanted):
        if rows and not options.json:
            print(line(rows[-1]), flush=True)
    print(result(wanted, rows) if options.json else "\n".join(tables(rows)))


if __name__ == "__main__":
    main()
