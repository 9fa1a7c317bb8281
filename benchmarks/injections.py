"""Faults per CPU-second: suffix re-execution against PyTorchFI at batch 1, one neuron fault per inference.

Both inject into the outputs of the same layers (convolutions and linear layers) of the same network on the same image.
PyTorchFI declares a fault (which copies the network) and runs the copy; ours flips a random bit of the same neuron and
replays the captured pass. Ours has to give the bits of a whole pass of ours with a plain hook, which is checked first.
Where PyTorchFI is not installed, the peer is that whole pass. Two laws: a layer is drawn uniformly and then a neuron in
it, or all neurons alike. Capture, golden pass and the trying-out of kernels happen once and are reported, not timed.

    python -m benchmarks.injections [--model resnet18] [--law layer-uniform] [--all] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _harness
from holdfast.execution.condition import Flips
from holdfast.execution.engines import Engine, build_engine
from holdfast.execution.plan import Trial
from holdfast.models import sites
from holdfast.models.site import Site

LAWS = ("layer-uniform", "neuron-weighted")
LAYERS = (nn.Conv2d, nn.Linear)
BATCH, WARM_UP, CHECKED = 32, 96, 8


class Logits(nn.Module):
    """A network of transformers that returns its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, shape (batch, classes)."""
        return self.network(images).logits


def build(name: str) -> nn.Module:
    """Return ResNet-18, ViT-S/16 or ViT-B/16 with random weights, as transformers builds them."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    if name == "resnet18":
        sizes = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
        return Logits(ResNetForImageClassification(ResNetConfig(num_labels=1000, **sizes))).eval()
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    return Logits(ViTForImageClassification(ViTConfig(num_labels=1000, **(small if name == "vit-s" else {})))).eval()


def layers(model: nn.Module, image: Tensor) -> list[Site]:
    """Return the outputs of convolutions and linear layers."""
    modules = dict(model.named_modules())
    known = sites(model, image[0])
    return [site for site in known if site.kind == "activations" and isinstance(modules.get(site.name), LAYERS)]


def draw(known: Sequence[Site], law: str, count: int, generator: random.Random) -> list[Trial]:
    """Return ``count`` trials of one random bit in one random neuron."""
    weights = [1 if law == "layer-uniform" else site.numel for site in known]
    trials = []
    for number, site in enumerate(generator.choices(known, weights, k=count)):
        element, bit = generator.randrange(site.numel), generator.randrange(site.bits)
        trials.append(Trial(number, (Flips(site, torch.tensor([element]), torch.tensor([1 << bit])),), 0))
    return trials


def run(engine: Engine, trials: Sequence[Trial], batch: int) -> Tensor:
    """Return the outputs of ``trials``, in blocks of ``batch``."""
    return torch.cat([engine.faulty(tuple(trials[k : k + batch])) for k in range(0, len(trials), batch)])


def peer_of(model: nn.Module, known: Sequence[Site], image: Tensor) -> tuple[Callable[[Trial], object], str] | None:
    """Return PyTorchFI's injection of one trial and its name, if it is installed."""
    try:
        from pytorchfi.core import fault_injection
    except ImportError:
        return None
    injector = fault_injection(model, 1, input_shape=[*image.shape[1:]], layer_types=list(LAYERS), use_cuda=False)
    places = {site.address: place for place, site in enumerate(known)}

    def inject(trial: Trial) -> Tensor:
        site, element, _ = trial.address
        index = torch.unravel_index(torch.tensor(element), trial.flips[0].site.shape)
        first, second, third = ([int(axis)] for axis in (*index, *[0] * (3 - len(index))))
        if len(index) < 3:
            third = [None]
        if len(index) < 2:
            second = [None]
        place, value = [places[site]], [random.Random(trial.number).uniform(-1, 1)]
        faulty = injector.declare_neuron_fi(
            batch=[0], layer_num=place, dim1=first, dim2=second, dim3=third, value=value
        )
        return faulty(image)

    return inject, "pytorchfi 0.6.0"


def measure(name: str, law: str, *, pairs: int, trials: int) -> tuple[_harness.Result, dict[str, float]]:
    """Time blocks of trials of ours against single injections of the peer's, side by side."""
    torch.set_num_threads(1)
    model, image = build(name), torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        known, generator = layers(model, image), random.Random(0)
        ours = build_engine("suffix", model, lambda numbers: image.expand(len(numbers), -1, -1, -1).clone())
        plain = build_engine("hooks", model, lambda numbers: image.expand(len(numbers), -1, -1, -1).clone())
        once = _harness.cpu_seconds(lambda: ours.golden((0,)))
        warm = _harness.cpu_seconds(lambda: run(ours, draw(known, law, WARM_UP, generator), BATCH))
        _check(ours, plain, draw(known, law, CHECKED, generator))
        inject, peer_name = peer_of(model, known, image) or (lambda trial: plain.faulty((trial,)), "whole pass, hooked")
        seconds, hooked, bare = [], [], []
        for _ in range(pairs):
            fresh = draw(known, law, trials, generator)
            mine = _harness.cpu_seconds(lambda fresh=fresh: run(ours, fresh, BATCH)) / trials
            few = fresh[: max(4, trials // 8)]
            theirs = _harness.cpu_seconds(lambda few=few: [inject(trial) for trial in few]) / len(few)
            seconds.append((1 / mine, 1 / theirs))
            for turn, trial in enumerate(few):  # a pass with a hook beside one without, either first
                passes = [lambda trial=trial: plain.faulty((trial,)), lambda: model(image)]
                times = [_harness.cpu_seconds(call) for call in (passes if turn % 2 else passes[::-1])]
                hooked.append(times[0 if turn % 2 else 1])
                bare.append(times[1 if turn % 2 else 0])
    claim = f"{name}, {law}: faults per CPU-second, one thread"
    extra = {
        "capture_and_golden_s": once,
        "warm_up_s_per_fault": warm / WARM_UP,
        "hooks_ms": sorted(hooked)[len(hooked) // 2] * 1e3,
        "plain_ms": sorted(bare)[len(bare) // 2] * 1e3,
        "hook_overhead": _paired_overhead(hooked, bare),
    }
    return _harness.summarise(claim, seconds, peer_name=peer_name, unit="faults per CPU-s"), extra


def _paired_overhead(hooked: Sequence[float], bare: Sequence[float]) -> float:
    ratios = sorted(a / b for a, b in zip(hooked, bare, strict=True))
    return ratios[len(ratios) // 2] - 1


def _check(ours: Engine, plain: Engine, trials: Sequence[Trial]) -> None:
    pairs = zip(run(ours, trials, BATCH), run(plain, trials, 1), strict=True)
    if not all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs):
        raise SystemExit("the suffix engine gave other bits than a whole pass")


def main() -> None:
    """Print one result, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("resnet18", "vit-s", "vit-b"), default="resnet18")
    parser.add_argument("--law", choices=LAWS, default=LAWS[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--all", action="store_true", help="all networks and laws, under `cases`; about five minutes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    first = case(options.model, options.law, options.pairs, options.trials, quiet=options.json)
    if options.all:
        rest = [(name, law, size) for law in LAWS for name, size in (("resnet18", 64), ("vit-s", 32), ("vit-b", 16))]
        first |= {"cases": [case(name, law, options.pairs, size, quiet=options.json) for name, law, size in rest]}
    if options.json:
        print(json.dumps(first, sort_keys=True))


def case(name: str, law: str, pairs: int, trials: int, *, quiet: bool) -> dict[str, Any]:
    """Measure one network under one law; return it as JSON, and print it unless ``quiet``."""
    started = time.process_time()
    result, extra = measure(name, law, pairs=pairs, trials=trials)
    extra["benchmark_s"] = time.process_time() - started
    if not quiet:
        _tell(result, extra)
    return asdict(result) | extra


def _tell(result: _harness.Result, extra: dict[str, float]) -> None:
    print(f"{result.claim}\n  ours {result.ours:.4g}, {result.peer_name} {result.peer:.4g}")
    print(f"  ratio {result.ratio:.3g} (95 % interval {result.low:.3g} .. {result.high:.3g}, n={result.n})")
    print(f"  {', '.join(f'{key} {value:.4g}' for key, value in extra.items())}")


if __name__ == "__main__":
    main()
