"""TSQP's integrity monitor against workers that tell its probes from queries, and Freivalds' check on the same lies.

The inner convolution of a trained digits network; queries are its codes on unseen images, a half of all messages are
probes, and the worker lies by one in one element about every message that it takes for a query.

    python -m benchmarks.integrity_probes [--json] [--sessions 20]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks import _harness
from holdfast.data import dataset
from holdfast.models import build_architecture
from holdfast.shielding import IntegerLayer
from holdfast.shielding.fingerprint import Combine, Distinguisher, Nearest, OutOfRange, Subspace, duel
from holdfast.shielding.graph import export
from holdfast.training import Standard, train
from holdfast.training.recipes import Schedule

WORKERS: dict[str, tuple[Distinguisher | None, Combine]] = {
    "lies about everything": (None, "sum"),
    "TSQP's probes, by range": (OutOfRange(), "sum"),
    "TSQP's probes, by nearest neighbour": (Nearest(), "sum"),
    "TSQP's probes, by rank": (Subspace(), "sum"),
    "SOTER's combinations, by rank": (Subspace(), "combination"),
}


def inner() -> tuple[IntegerLayer, Tensor]:
    """Return the second convolution of a trained network, and its codes on 200 unseen images."""
    own, test = dataset("digits", split="train"), dataset("digits", split="test")
    net = train(build_architecture("digits-cnn"), own, Standard(schedule=Schedule(epochs=8)))
    graph = export(net, own.example[None], own.take(128))
    layer = graph.get_submodule("conv2")
    taken: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    graph(test.take(200).all()[0])
    handle.remove()
    if not isinstance(layer, IntegerLayer):
        raise SystemExit("conv2 is no integer layer")
    return layer, layer.encode(taken[0])


def main() -> None:
    """Run as a command: a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--sessions", type=int, default=20, help="each with a fresh pool of 16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layer, queries = inner()
    rows: dict[str, Any] = {}
    for name, (distinguisher, combine) in WORKERS.items():
        found = duel(layer, queries, distinguisher, sessions=options.sessions, combine=combine)
        rows[name] = asdict(found)
        if not options.json:
            told, probes, checked, honest = (
                f"{part.value:.1%} [{part.low:.1%}, {part.high:.1%}]"
                for part in (found.told_apart, found.probes, found.freivalds, found.honest)
            )
            before = f"{found.before.value:.1f} [{found.before.low:.1f}, {found.before.high:.1f}]"
            cells = (name, told, probes, f"{before} lies believed", f"{checked} of {found.lies}", f"honest {honest}")
            print(" | ".join(cells), flush=True)
    if options.json:
        print(json.dumps({"sessions": options.sessions, "duels": rows, "machine": _harness.machine()}))


if __name__ == "__main__":
    main()
