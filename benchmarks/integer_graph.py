"""Integer graphs: accuracy of a trained network at several true top codes, and bit equality of networks of real size.

Accuracy is that of ResNet-20 with its published weights on CIFAR-10 test images, against float32 on the same images,
calibrated on training images. Beside it stands the recipe of TSQP's release (torch.ao, FX mode, histogram observers, a
reduced range R), with the top code that it was asked for and the largest one that its converted model computes with.
The claim is the CPU time of a batch against that int8 model. Needs HOLDFAST_CIFAR10 and the shared weights; equality
needs torchvision and timm.

    HOLDFAST_CIFAR10=... python -m benchmarks.integer_graph [--json] [--images 10000] [--networks]
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor, fx, nn

from benchmarks import _harness
from holdfast.data import Dataset, dataset
from holdfast.execution import Proportion
from holdfast.models import load
from holdfast.shielding import shield
from holdfast.shielding.graph import export

SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
MEAN, STD = "0.485/0.456/0.406", "0.229/0.224/0.225"
CALIBRATION, BATCH = 1024, 250
RANGES = (0, 127, 224)  # TSQP's R; the top codes that it computes with are (255 - R) // 2
Call = Callable[[Tensor], Tensor]


def network() -> nn.Module:
    """Return ResNet-20 with its published weights."""
    return load(SHARED / "resnet-cifar10" / "resnet20-12fca82f.th", arch="cifar-resnet20")


def data(split: str, count: int) -> Dataset:
    """Return the first images of a split, prepared as the weights want them."""
    root = os.environ.get("HOLDFAST_CIFAR10")
    if not root:
        raise SystemExit("set HOLDFAST_CIFAR10 to a folder of CIFAR-10 in binary form")
    return dataset(f"cifar10:{root}", split=split, mean=MEAN, std=STD).take(count)


def measure() -> _harness.Result:
    """Time a batch of 16 through the integer graph and through torch.ao's int8 model."""
    torch.set_num_threads(1)
    calibration = data("train", CALIBRATION)
    x = data("test", 16).all()[0]
    ours, peer = export(network(), x[:1], calibration), released(network(), calibration, 0)[0]
    pairs = _harness.paired(lambda: ours(x), lambda: peer(x), repeats=9)
    return _harness.summarise(
        "a batch of ResNet-20 with the same bits in any batch, against one without", pairs, peer_name="torch.ao int8"
    )


def released(model: nn.Module, calibration: Dataset, reduced: int) -> tuple[nn.Module, int]:
    """Return the model as TSQP's release quantises it with R = ``reduced``, and the top code its observers keep to."""
    from torch.ao.quantization import HistogramObserver, QConfig, QConfigMapping, default_per_channel_weight_observer
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observer = HistogramObserver.with_args(
            dtype=torch.quint8, quant_min=0, quant_max=255 - reduced, reduce_range=True
        )
        mapping = QConfigMapping().set_global(QConfig(observer, default_per_channel_weight_observer))
        prepared = prepare_fx(model, mapping, (calibration.all()[0][:1],))
        with torch.no_grad():
            for images, _ in calibration.batches(BATCH):
                prepared(images)
        top = max(part.quant_max for part in prepared.modules() if isinstance(part, HistogramObserver))
        return convert_fx(prepared), int(top)


class _TopCode(fx.Interpreter):
    """Remembers the largest activation code of a quantised model."""

    largest = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_quantized:
            self.largest = max(self.largest, int(result.int_repr().max()))
        return result


def accuracies(images: int) -> Iterator[dict[str, Any]]:
    """Yield accuracy of every arm, and its difference to float32 on the same images, with 95 % intervals."""
    calibration, test = data("train", CALIBRATION), data("test", images)
    reference = correct(network(), test)
    yield arm("float32", reference, reference)
    for reduced in RANGES:
        top = (255 - reduced) // 2
        model = export(network(), test.all()[0][:1], calibration, top_code=top)
        yield arm("integer graph", correct(model, test), reference, top_asked=top, top_computed=top)
        theirs, kept = released(network(), calibration, reduced)
        watch = _TopCode(theirs)  # type: ignore[arg-type]
        for batch, _ in test.take(1000).batches(BATCH):
            watch.run(batch)
        facts = {"top_asked": 255 - reduced, "top_kept": kept, "top_computed": watch.largest}
        yield arm(f"TSQP's release, R={reduced}", correct(theirs, test), reference, **facts)


def correct(model: Call, test: Dataset) -> Tensor:
    """Return which images are classified right, bool (n,)."""
    with torch.no_grad():
        return torch.cat([model(images).argmax(1) == labels for images, labels in test.batches(BATCH)])


def arm(name: str, right: Tensor, reference: Tensor, **facts: int) -> dict[str, Any]:
    """Return accuracy (Wilson) and paired difference (normal interval over images)."""
    share = Proportion.wilson(int(right.sum()), len(right))
    difference = right.double() - reference.double()
    half = float(norm.ppf(0.975) * difference.std() / len(right) ** 0.5)
    value = float(difference.mean())
    return {
        "arm": name,
        "accuracy": [share.value, share.low, share.high],
        "difference": [value, value - half, value + half],
        "images": len(right),
        **facts,
    }


def networks() -> Iterator[dict[str, Any]]:
    """Yield bit equality with a session in two processes, and times, for networks of real size."""
    from tests.unit.shielding.graph.nets import seeded
    from tests.unit.shielding.graph.vision import NETWORKS

    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for name, make in NETWORKS.items():
        yield equality(name, seeded(make), x)
    tokens = torch.randint(3, 512, (2, 24), generator=torch.Generator().manual_seed(1))
    yield equality("llama-260k", load(SHARED / "tiny-llama-260k"), tokens)


def equality(name: str, net: nn.Module, x: Tensor) -> dict[str, Any]:
    """Export on ``x`` and hold the graph against itself, one by one, on two threads, and in a session."""
    start = time.process_time()
    model = export(net, x[:1], x)
    spent, whole = time.process_time() - start, model(x)
    torch.set_num_threads(2)
    threads = torch.equal(model(x), whole)
    torch.set_num_threads(1)
    with torch.no_grad():
        error = float((whole - net(x)).norm() / net(x).norm())
    with shield(model, timeout=600.0) as session:
        session_equal = torch.equal(session(x), whole)
    bounds = [bound for bound in model.bounds().values() if bound < 2**31]
    return {
        "network": name,
        "one by one": torch.equal(torch.cat([model(one) for one in x.split(1)]), whole),
        "two threads": threads,
        "session": session_equal,
        "distance to float32": error,
        "linear nodes": len(bounds),
        "largest accumulator": max(bounds),
        "export CPU-s": spent,
    }


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--networks", action="store_true", help="bit equality of the five networks, too")
    options = parser.parse_args()
    result: dict[str, Any] = asdict(measure())
    result["accuracies"] = list(accuracies(options.images))
    result["networks"] = list(networks()) if options.networks else []
    if options.json:
        print(json.dumps(result, sort_keys=True))
        return
    print(
        f"{result['claim']}: {result['ratio']:.3g} [{result['low']:.3g}, {result['high']:.3g}] of {result['peer_name']}"
    )
    for row in [*result["accuracies"], *result["networks"]]:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
