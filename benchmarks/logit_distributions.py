"""HSPI's black-box table again: seven formats, nine nets, one fingerprint from each net, judged on all the others.

Training and test share no image. Beside every F1 stand the value the paper printed (its Table, black box, LD) and that
of a rule which counts trailing zeros; beside every accuracy chance, and reference matching of *known* inputs on the
same recordings. The second experiment is the honest one on real software: four fp32 stacks of this machine.

Ours is reference matching from one input, the peer the fingerprint on nets it has not seen. The net files say what is
no replication: weights are random but for one net, and images 32 pixels wide. ``HOLDFAST_BENCH_IMAGES`` (200) images
for each format; ``HOLDFAST_BENCH_CACHE`` keeps outputs between runs; ``HOLDFAST_CIFAR10`` is the binary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _harness, _paper_nets
from benchmarks._paper_nets import TAGS, available
from holdfast.data import Dataset, dataset, probes
from holdfast.errors import VerificationError
from holdfast.execution import Trace
from holdfast.identification.distribution import (
    Evaluation,
    Examples,
    LogitDistribution,
    Recording,
    as_classes,
    evaluate,
    judge,
    match_runs,
    merged,
    require_no_leakage,
    score,
)
from holdfast.identification.emulated import EMULATED, PUBLISHED, EmulatedFormat, emulated_trace
from holdfast.identification.platforms import LOCAL_PLATFORMS, trace_on
from holdfast.models import build_architecture
from holdfast.seeds import derive

IMAGES = int(os.environ.get("HOLDFAST_BENCH_IMAGES", "200")) // 40 * 40
STACK_IMAGES = 1000
SIZE = 10  # images of one example, as published
STACKS = ("default", "onednn-off", "channels-last", "batch-1", "bf16", "fp16")
# mean absolute logit error of ResNet-18 in the source's own test
SOURCE_ERRORS = {
    "fp16": 0.00102,
    "bf16": 0.0137,
    "mxint8": 0.0376,
    "fp8-e3m4": 0.0983,
    "fp8-e4m3": 0.1016,
    "int8-dynamic": 0.1447,
    "bl8": 1.58,
    "log8": 1.75,
    "bm8": 2.79,
}
EXACT_HEADS = ("resnet18", "mobilenet_v2", "resnet20", "simplenet")
EMULATED_TAGS = ("fp32", "mxint8", "fp8-e3m4", "fp8-e4m3", "int8-dynamic")
# Zhang et al., ICML 2025, black-box table, LD: F1 of each class in the order of TAGS
PRINTED = {
    "vgg16": (0.394, 1, 1, 0, 0.95, 0.65, 0.2),
    "resnet18": (0.332, 1, 0.986, 0.318, 0.972, 0.682, 0.446),
    "resnet50": (1, 1, 1, 0.056, 0.602, 0.634, 0.642),
    "mobilenet_v2": (0.026, 0.8, 0.8, 0.342, 0.768, 0.69, 0.498),
    "efficientnet_b0": (0, 1, 1, 0, 0.2, 0.612, 0.592),
    "densenet121": (0.102, 1, 0.996, 0.34, 0.926, 0.514, 0.638),
}


def recordings(name: str, cache: Path, *, tags: Sequence[str] = TAGS, **how: Any) -> list[Recording]:
    """Return what every format made of the images on one net."""
    data = _paper_nets.noise(name, IMAGES)
    return [Recording.of(tag, _paper_nets.recorded(name, tag, IMAGES, cache, **how), data, run="first") for tag in tags]


def part(items: list[Recording], rows: slice) -> list[Recording]:
    """Return the outputs to some of the inputs."""
    return [
        Recording(
            item.label,
            Trace(item.trace.outputs[rows], item.trace.probe_digest, item.model, item.trace.platform),
            item.inputs[rows],
            item.run,
            item.machine,
        )
        for item in items
    ]


def again(items: list[Recording], name: str, cache: Path) -> list[Recording]:
    """Return recordings of the first batch of images, made again in a fresh process."""
    count, folder = _paper_nets.BATCH, cache / "again"
    few = part(items, slice(0, count))
    command = [sys.executable, "-m", "benchmarks._paper_nets", name, str(count), str(folder)]
    subprocess.run(command, check=True)
    found = []
    for item in few:
        trace = _paper_nets.recorded(name, item.label, count, folder)
        same = Trace(trace.outputs[:count], item.trace.probe_digest, trace.model_digest, trace.platform)
        found.append(Recording(item.label, same, item.inputs, "again"))
    return found


def elsewhere(name: str, everything: dict[str, list[Recording]]) -> Evaluation:
    """Learn from the first half of the images on one net, and be judged by the second half on all others."""
    rest = [items for other, items in everything.items() if other != name]
    others = [item for items in rest for item in part(items, slice(len(items[0].inputs) // 2, None))]
    own = part(everything[name], slice(0, len(everything[name][0].inputs) // 2))
    learned = LogitDistribution().fit(Examples.of(merged(own), size=SIZE))
    return judge(learned, Examples.of(as_classes(others, learned.labels_), size=SIZE))


def inside(name: str, items: list[Recording]) -> dict[str, Any]:
    """Return how the formats of one net are told apart by fingerprints of the same net, on images held out and not."""
    examples = Examples.of(merged(items), size=SIZE)
    return {
        "same net": evaluate(examples).to_json(),
        "same net, perceptron": evaluate(examples, method="mlp").to_json() if name in EXACT_HEADS else None,
        "same net, as published": careless(examples),
    }


def table(everything: dict[str, list[Recording]]) -> Iterator[dict[str, Any]]:
    """Yield, for each net, the fingerprint learned from it and judged on all others, and on itself."""
    for name, items in everything.items():
        yield {
            "net": name,
            "weights": "trained" if name == _paper_nets.TRAINED else "random",
            "published": dict(zip(TAGS, PRINTED[name], strict=True)) if name in PRINTED else None,
            "other nets": elsewhere(name, everything).to_json(),
            **inside(name, items),
        }


def careless(examples: Examples, share: float = 0.8) -> dict[str, Any]:
    """Return what the published code prints: training accuracy, and a split of rows whose twins are in training."""
    order = derive(0, "careless").numpy().permutation(len(examples))
    cut = round(share * len(order))
    train, test = examples.take(order[:cut]), examples.take(order[cut:])
    learned = LogitDistribution().fit(train)
    found = score("rows at random", test.labels, learned.predict(test), range(len(test)))
    try:
        require_no_leakage(train, test)
    except VerificationError as error:
        return {"training": learned.training_, "rows at random": found.to_json(), "refused here": str(error)}
    raise RuntimeError("rows at random must share images")


def exact_heads(cache: Path) -> Iterator[dict[str, Any]]:
    """Yield what is left when the last layer stays in float32, so that sums of short products no longer show."""
    nets = [name for name in EXACT_HEADS if name in available()]
    found = {name: recordings(name, cache, tags=EMULATED_TAGS, exact_head=True) for name in nets}
    for name, items in found.items():
        yield {
            "net": name,
            "same net": evaluate(Examples.of(items, size=SIZE)).to_json(),
            "other nets": elsewhere(name, found).to_json() if len(found) > 1 else None,
        }


def anchors(count: int = 64) -> list[dict[str, Any]]:
    """Return the mean absolute logit error of every tag on the trained net and CIFAR-10 images, beside the source's."""
    root = os.environ.get("HOLDFAST_CIFAR10")
    if not root or _paper_nets.TRAINED not in available():
        return []
    images = dataset(f"cifar10:{root}", split="test").take(count)
    data = Dataset("cifar10", images.raw, images.labels, images.classes, _paper_nets.OWN_PREPROCESSING)
    model = _paper_nets.build(_paper_nets.TRAINED)
    exact = emulated_trace("fp32", model, data, batch_size=count).outputs

    def apart(chosen: EmulatedFormat) -> float:
        return float((emulated_trace(chosen, model, data, batch_size=count).outputs - exact).abs().mean())

    return [
        {"tag": tag, "source": error, "ours": apart(EMULATED[tag]), "their code": apart(PUBLISHED[tag])}
        for tag, error in SOURCE_ERRORS.items()
    ]


def stacks() -> dict[str, Any]:
    """Return how real software stacks of this machine are told apart on inputs that are unknown, and known."""
    model = build_architecture("digits-cnn", seed=0).eval()
    data = probes(n=STACK_IMAGES, shape=(1, 8, 8), seed=0)
    first, second = (
        [
            Recording.of(name, trace_on(LOCAL_PLATFORMS[name], model, data, fresh=fresh), data, run=run)
            for name in STACKS
        ]
        for run, fresh in (("first", False), ("second", True))
    )
    everything, fp32 = merged(first), merged(first[:4])
    classes = {name: item.label for item, name in zip(first, STACKS, strict=True)}
    known = match_runs([*merged([*first, *second])])
    return {
        "classes": sorted({item.label for item in everything}),
        "stacks": classes,
        "all, held out": evaluate(Examples.of(everything, size=5)).to_json(),
        "all, as published": careless(Examples.of(everything, size=5)),
        "fp32 stacks, held out": evaluate(Examples.of(fp32, size=5)).to_json(),
        "fp32 stacks, perceptron": evaluate(Examples.of(fp32, size=5), method="mlp").to_json(),
        "fp32 stacks, as published": careless(Examples.of(fp32, size=5)),
        "one known input, fresh process": known.to_json(),
    }


def measure() -> tuple[_harness.Result, dict[str, Any]]:
    """Measure everything."""
    before = time.process_time()
    with tempfile.TemporaryDirectory() as own:
        cache = Path(os.environ.get("HOLDFAST_BENCH_CACHE", own))
        everything = {name: recordings(name, cache) for name in available()}
        rows = list(table(everything))
        heads = list(exact_heads(cache))
        known = {name: items for name, items in everything.items() if name != "vgg16"}  # it takes as long as all others
        twice = [item for name, items in known.items() for item in again(items, name, cache)]
    few = [item for items in known.values() for item in part(items, slice(0, _paper_nets.BATCH))]
    matched = match_runs([*few, *twice])
    result = _result(matched.accuracy.value, [row["other nets"]["scores"][0]["accuracy"]["value"] for row in rows])
    more = {
        "images": IMAGES,
        "table": rows,
        "last layer in float32": heads,
        "one known input, fresh process": matched.to_json(),
        "stacks": stacks(),
        "anchors": anchors(),
        "cpu seconds": time.process_time() - before,
    }
    return result, more


def _result(ours: float, peer: list[float]) -> _harness.Result:
    generator = derive(0, "nets").numpy()
    spread = sorted(ours / float(np.mean(generator.choice(peer, len(peer)))) for _ in range(2000))
    return _harness.Result(
        claim="seven number formats named: one known input against 10 unknown ones on nets not trained on",
        ours=ours,
        peer=statistics.mean(peer),
        unit="share named rightly",
        ratio=ours / statistics.mean(peer),
        low=spread[50],
        high=spread[1949],
        n=len(peer),
        peer_name="HSPI-LD (one-vs-one LinearSVC)",
        machine=_harness.machine(),
    )


def slim(value: Any) -> Any:
    """Return what a table holds: no confusion counts, four decimals, and of trivial baselines the accuracy only."""
    if isinstance(value, dict):
        left_out = {"confusion", "labels", "unit", "groups", "by", "size"}
        left_out |= {"f1", "mcc"} if value.get("name") in ("majority", "trailing zeros") else set()
        return {key: slim(item) for key, item in value.items() if key not in left_out}
    if isinstance(value, list):
        return [slim(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def show(more: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'trained on':20}{'':12}" + "".join(f"{tag:>14}" for tag in TAGS) + f"{'accuracy':>12}")
    for row in more["table"]:
        learned, _, plain, zeros = row["other nets"]["scores"]
        if row["published"]:
            print(f"{row['net']:20}{'published':12}" + "".join(f"{row['published'][tag]:14.3f}" for tag in TAGS))
        for name, item in (("ours", learned), ("13 or 16 0s", plain), ("counted 0s", zeros)):
            values = "".join(f"{item['f1'][tag]['value'] if item['f1'][tag] else 0:14.3f}" for tag in TAGS)
            print(f"{row['net']:20}{name:12}{values}{item['accuracy']['value']:12.3f}")
        inside, net = row["same net"]["scores"][0], row["same net, perceptron"]
        values = "".join(f"{inside['f1'][tag]['value']:14.3f}" for tag in TAGS)
        print(f"{row['net']:20}{'itself':12}{values}{inside['accuracy']['value']:12.3f}"
              f"  perceptron {net['scores'][0]['accuracy']['value'] if net else float('nan'):.3f}"
              f"  rows at random {row['same net, as published']['rows at random']['accuracy']['value']:.3f}"
              f"  training {row['same net']['training_accuracy']:.3f}")  # fmt: skip
    for row in more["last layer in float32"]:
        for where in ("same net", "other nets"):
            scores = row[where]["scores"] if row[where] else []
            values = {item["name"]: round(item["accuracy"]["value"], 3) for item in scores}
            print(f"{row['net']:20}last layer in float32, {where}: {values}")
    print(f"one known input: {more['one known input, fresh process']['accuracy']}")
    for row in more["anchors"]:
        print(f"{row['tag']:14}mean error: source {row['source']:.5f}, ours {row['ours']:.5f}, "
              f"their code {row['their code']:.5f}")  # fmt: skip
    for name, value in more["stacks"].items():
        if isinstance(value, dict) and "scores" in value:
            print(f"stacks, {name}: {value['scores'][0]['accuracy']} training {value['training_accuracy']:.3f}")
        elif isinstance(value, dict) and "rows at random" in value:
            print(f"stacks, {name}: {value['rows at random']['accuracy']} training {value['training']:.3f}")
        else:
            print(f"stacks, {name}: {value.get('accuracy', value) if isinstance(value, dict) else value}")


def main() -> None:
    """Run as a command: a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, more = measure()
    if as_json:
        print(json.dumps(asdict(result) | slim(more), sort_keys=True))
        return
    print(f"{result.claim}: {result.ours:.3f} against {result.peer:.3f}")
    show(more)


if __name__ == "__main__":
    main()
