"""Open-set identification: one class is held out, and nobody may be taken for another.

The claim: how many newcomers that share 97 % of their words with a reference are accepted as it, against the rule
"95 % of the words equal". Beside it: real software stacks of this machine, each held out in turn over nets, weights and
probes; known classes named right, from one probe to sixteen; and simulated newcomers nearer and farther.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import _harness
from holdfast.data import probes
from holdfast.execution import Trace
from holdfast.identification import LOCAL_PLATFORMS, Identifier, collect_platforms
from holdfast.models import build_architecture
from holdfast.seeds import derive

HERE = ("default", "batch-1", "channels-last", "onednn-off", "bf16", "fp16")
OWN = ("onednn-avx2", "onednn-sse41", "aten-default")
NETS = {"digits-cnn": (1, 8, 8), "cifar-resnet20": (3, 32, 32)}
SEEDS = range(12)
RULE = 0.95
NEWCOMERS = 300


def measure() -> _harness.Result:
    """Count accepted newcomers that share 97 % of their words, by both rules, with a bootstrap over newcomers."""
    torch.set_num_threads(1)
    found = [(float(ours), float(rule)) for ours, rule, _ in newcomers(0.97, 16)]
    generator = derive(0, "bootstrap").numpy()
    spread = []
    for _ in range(_harness.RESAMPLES):
        drawn = [found[k] for k in generator.integers(0, len(found), len(found))]
        spread.append(sum(a for a, _ in drawn) / max(sum(b for _, b in drawn), 1.0))
    spread.sort()
    ours, peer = (sum(item[k] for item in found) / len(found) for k in (0, 1))
    return _harness.Result(
        claim="newcomers sharing 97 % of 160 words with a reference, accepted as it",
        ours=ours,
        peer=peer,
        unit="share",
        ratio=ours / max(peer, 1e-9),
        low=spread[int(0.025 * len(spread))],
        high=spread[int(0.975 * len(spread))],
        n=len(found),
        peer_name=f"{RULE:.0%} of words equal",
        machine=_harness.machine(),
    )


def newcomers(share: float, count: int) -> Iterator[tuple[bool, bool, bool]]:
    """Yield whether a platform near a reference was accepted, by the identifier and by the rule, or left open."""
    for seed in range(NEWCOMERS):
        generator = derive(seed, "newcomers", count).torch()
        exact = torch.randn(count, 10, generator=generator)
        known = {f"c{k}": _trace(_moved(exact, 0.3, generator)) for k in range(6)}
        seen = _trace(_moved(known["c0"].outputs, share, generator))
        if torch.equal(seen.outputs, known["c0"].outputs):
            continue  # the same bits are the same class
        answer = Identifier().fit(list(known.items())).predict(seen)
        opened = not answer.known and answer.labels != ("unknown",)
        yield answer.known, answer.equal_fraction >= RULE, opened


def _moved(words: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    kept = torch.rand(words.shape, generator=generator) < share
    signs = 1 - 2 * torch.randint(0, 2, words.shape, generator=generator)
    moves = (torch.randint(1, 4, words.shape, generator=generator) * signs).masked_fill(kept, 0).int()
    return (words.view(torch.int32) + moves).view(torch.float32)


def _trace(outputs: torch.Tensor) -> Trace:
    return Trace(outputs, "p", "m", {})


def stacks(count: int, *, own: bool) -> dict[str, Any]:
    """Hold out every class of every net once; ``own`` adds the settings that need a process of their own."""
    named, accepted, opened, total = 0, 0, 0, 0
    for net, shape in NETS.items():
        for seed in list(SEEDS)[:1] if own else SEEDS:
            found = _references(net, shape, count, 1000 * (own + 1) + 20 * count + seed, own=own)
            for name, seen in found.items():
                whole = Identifier().fit(list(found.items()))
                mine = next(labels for labels, _ in whole.classes_ if name in labels)
                named += set(whole.predict(seen).labels) == set(mine)
                others = [item for item in found.items() if item[0] not in mine]
                answer = Identifier().fit(others).predict(seen)
                accepted, total = accepted + answer.known, total + 1
                opened += not answer.known and answer.labels != ("unknown",)
    rows = {"named": named, "false_accept": accepted, "left_open": opened}
    return {"probes": count, "own_processes": own} | {
        name: _harness.share_of(value, total) for name, value in rows.items()
    }


def _references(net: str, shape: tuple[int, ...], count: int, seed: int, *, own: bool) -> Mapping[str, Trace]:
    model = build_architecture(net, seed=seed).eval()
    data = probes("uniform", n=count, shape=shape, seed=seed)
    return collect_platforms(model, data, [name for name in LOCAL_PLATFORMS if name in HERE or (own and name in OWN)])


def tables() -> dict[str, Any]:
    """Return everything beside the claim."""
    near = []
    for share in (0.5, 0.8, 0.9, 0.97, 0.99):
        rows = list(newcomers(share, 4))
        ours, rule, opened = (_harness.share_of(sum(row[k] for row in rows), len(rows)) for k in range(3))
        near.append({"shares": share, "probes": 4, "accepted": ours, "accepted_by_rule": rule, "left_open": opened})
    real = [stacks(count, own=False) for count in (1, 4, 16)] + [stacks(16, own=True)]
    everything = sum(row["named"]["n"] for row in real)
    total = {
        name: _harness.share_of(round(sum(row[name]["value"] * row[name]["n"] for row in real)), everything)
        for name in ("named", "false_accept", "left_open")
    }
    return {"stacks": real, "all_stacks": total, "newcomers": near}


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, more = asdict(measure()), tables()
    if as_json:
        print(json.dumps(result | more, sort_keys=True))
        return
    print(f"{result['claim']}: {result['ours']:.3f}, by {result['peer_name']} {result['peer']:.3f} (n={result['n']})")
    for row in (*more["stacks"], more["all_stacks"], *more["newcomers"]):
        print(row)


if __name__ == "__main__":
    main()
