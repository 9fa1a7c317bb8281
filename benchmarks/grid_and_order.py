"""Grid and order rules: how often they are right on held-out data, how often they refuse, and what probes cost.

The claim is the CPU time of revealing the summation tree of numpy's dot product, against the method that probes every
pair. Beside it: the head's format from one simulated response, and from one position, with 95 % intervals, chance and
the trailing-zero rule; what is said of rounded numbers; formats of stored words; the share of kernels whose replayed
tree gives the kernel's own bits; probes until the sequential test decides.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from benchmarks import _harness
from holdfast.identification import (
    ORDER_KERNELS,
    SequentialMatch,
    dtype_from_logprobs,
    dtype_from_outputs,
    grid_evidence,
    order_signatures,
    replay,
    run_sequential,
    summation_tree,
)
from holdfast.seeds import derive

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RESPONSES = 40  # per format and arm
ADDENDS = 96


def measure() -> _harness.Result:
    """Time both ways to the tree of a dot product of 96 addends."""
    torch.set_num_threads(1)
    kernel = ORDER_KERNELS["numpy-dot"].call
    pairs = _harness.paired(lambda: summation_tree(kernel, ADDENDS), lambda: _every_pair(ADDENDS), repeats=9)
    return _harness.summarise(f"tree of a dot product of {ADDENDS} addends", pairs, peer_name="every pair probed")


def _every_pair(n: int) -> dict[tuple[int, int], int]:
    """The sizes of all lowest common ancestors, one probe for each pair, without building the tree."""
    left, rows = np.triu_indices(n, 1)
    a, b = torch.ones(len(rows), n), torch.ones(len(rows), n)
    index = torch.arange(len(rows))
    for place, sign in ((left, 1.0), (rows, -1.0)):
        a[index, torch.from_numpy(place)], b[index, torch.from_numpy(place)] = sign * 2.0**50, 2.0**50
    sizes = n - ORDER_KERNELS["numpy-dot"].call(a, b)
    return dict(zip(zip(left.tolist(), rows.tolist(), strict=True), map(int, sizes), strict=True))


def response(name: str, seed: int, positions: int, places: int | None = None) -> list[list[str]]:
    """Raw numbers of a server: logits of a random scale in a format, fp32 log-softmax, the top 20 in JSON."""
    generator = derive(seed, "benchmark", name).torch()
    scale, shift = 3 + 2 * float(torch.rand((), generator=generator)), 8 * float(torch.rand((), generator=generator))
    logits = (torch.randn(positions, 2048, generator=generator) * scale + shift).to(DTYPES[name]).float()
    rows = torch.log_softmax(logits, -1).sort(descending=True).values[:, :20].double().tolist()
    return [[json.dumps(value if places is None else round(value, places)) for value in row] for row in rows]


def heads() -> Iterator[dict[str, Any]]:
    """Yield how often the format of the head is named, wrong, or refused."""
    for name in DTYPES:
        for positions, places in ((8, None), (1, None), (8, 4), (8, 2)):
            rows = [response(name, seed, positions, places) for seed in range(RESPONSES)]
            said = [dtype_from_logprobs(row).dtype for row in rows]
            trivial = [dtype_from_outputs(torch.tensor([[float(x) for x in line] for line in row])) for row in rows]
            yield {
                "head": name,
                "positions": positions,
                "decimals": places,
                "right": _harness.share([item == name for item in said]),
                "wrong": _harness.share([item in DTYPES and item != name for item in said]),
                "cannot tell": _harness.share([item == "cannot tell" for item in said]),
                "trailing zeros right": _harness.share([item.dtype == name for item in trivial]),
                "chance": 1 / 3,
            }


def words() -> Iterator[dict[str, Any]]:
    """Yield how often 64 stored words name their format."""
    for name, dtype in (DTYPES | {"fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}).items():
        right = []
        for seed in range(RESPONSES):
            generator = derive(seed, "words", name).torch()
            values = torch.randn(64, generator=generator) * 4
            right.append(grid_evidence(values.to(dtype).float(), prior={"tf32": 1e-3}).formats == (name,))
        yield {"words": name, "right": _harness.share(right), "chance": 1 / 8}


def orders(n: int = 256) -> Iterator[dict[str, Any]]:
    """Yield, for every kernel, its order and how many of 200 unseen sums the replayed tree predicts bit by bit."""
    for name, found in order_signatures(ORDER_KERNELS, n).items():
        kernel, row = ORDER_KERNELS[name], {"kernel": name, "digest": found.tree.digest[:12], "order": found.text}
        if found.tree.arity == 2:
            generator = derive(0, "orders", name).torch()
            a, b = (torch.randn(200, n, generator=generator).to(kernel.dtype) for _ in range(2))
            predicted = replay(found.tree, a, b, fused=found.accumulator.fused).to(kernel.dtype)
            row["bits predicted"] = _harness.share((predicted == kernel.call(a, b)).tolist())
            chain = torch.stack([(a * b)[:, k] for k in range(n)]).float().cumsum(0)[-1].to(kernel.dtype)
            row["left to right"] = _harness.share((chain == kernel.call(a, b)).tolist())
        yield row


LEVELS: dict[str, dict[str, str]] = {
    "as it is": {},
    **{f"ATEN_CPU_CAPABILITY={level}": {"ATEN_CPU_CAPABILITY": level} for level in ("default", "avx2")},
    **{f"ONEDNN_MAX_CPU_ISA={level}": {"ONEDNN_MAX_CPU_ISA": level} for level in ("SSE41", "AVX2", "AVX512_CORE")},
    "MKL_CBWR=COMPATIBLE": {"MKL_CBWR": "COMPATIBLE"},
    **{f"OPENBLAS_CORETYPE={core}": {"OPENBLAS_CORETYPE": core} for core in ("Haswell", "SkylakeX", "Nehalem")},
}


def signatures() -> dict[str, Any]:
    """Return the order of every kernel for 512 addends under each instruction set, each in a fresh process."""
    program = (
        "import json, torch; torch.set_num_threads(1); from holdfast.identification import ORDER_KERNELS as k, "
        "order_signatures as s; print(json.dumps({n: f.tree.digest[:12] for n, f in s(k, 512).items()}))"
    )
    found = {}
    for name, level in LEVELS.items():
        ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=os.environ | level)
        found[name] = json.loads(ended.stdout)
    plain = found["as it is"]
    changed = {name: sorted(k for k in row if row[k] != plain[k]) for name, row in found.items()}
    return {"addends": 512, "orders": found, "distinct": len(set(plain.values())), "changed": changed}


def sequential(classes: int = 30, probes: int = 40, error: float = 0.01) -> dict[str, Any]:
    """Return how the test does on 30 simulated classes: known ones, and an unknown one that echoes at the bound."""
    echo, runs = 0.2, 500
    right, wrong, asked = [], [], []
    for seed in range(runs):
        generator = derive(seed, "sequential").numpy()
        known = {f"c{k}": tuple(generator.integers(0, 1000, probes).tolist()) for k in range(classes)}
        decision = run_sequential(SequentialMatch(known, echo=echo, error=error), known["c7"])
        right.append(decision.labels == ("c7",))
        asked.append(decision.asked)
        foreign = [known["c7"][k] if generator.random() < echo else -1 for k in range(probes)]
        wrong.append(run_sequential(SequentialMatch(known, echo=echo, error=error), foreign).labels[0] in known)
    return {
        "right": _harness.share(right),
        "false accept": _harness.share(wrong),
        "bound": error,
        "probes": float(np.mean(asked)),
    }


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result = asdict(measure())
    more: dict[str, Any] = {
        "heads": list(heads()),
        "words": list(words()),
        "orders": list(orders()),
        "sequential": sequential(),
    }
    more["signatures"] = signatures()
    if as_json:
        print(json.dumps(result | more, sort_keys=True))
        return
    print(f"{result['claim']}: x {result['ratio']:.3f} ({result['low']:.3f} .. {result['high']:.3f})")
    for row in (*more["heads"], *more["words"], *more["orders"], more["sequential"], more["signatures"]):
        print(row)


if __name__ == "__main__":
    main()
