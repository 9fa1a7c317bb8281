"""Blinded products in as many byte planes as accumulators need, against four planes for every layer.

All 20 convolutions of ResNet-18 at 224x224 and batch 1, one after another. Weights are normal draws encoded per output
channel, as trained ones are in shape: full-range codes would need the widest ring almost everywhere. The answers of
both are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict

import torch

from benchmarks import _harness
from benchmarks._resnet_layers import CONVOLUTIONS, STEM, Layer
from holdfast.seeds import derive
from holdfast.shielding.integer import accumulator_bound, weight_codes
from holdfast.shielding.kernels import kernel
from holdfast.shielding.product import MOST_PLANES, byte_planes, centred, planes_for, planes_product

Product = Callable[[], torch.Tensor]


def products(layer: Layer) -> tuple[int, Product, Product]:
    """Return how many planes a layer needs, and the worker's products with so many and with four."""
    generator = derive(0, "benchmark", "byte planes", layer.name).torch()
    codes = weight_codes(torch.randn(layer.geometry.weight_shape, generator=generator)).codes
    planes = planes_for(accumulator_bound(codes, 127, layer=layer.name))
    message = torch.randint(-(2**31), 2**31, (1, *layer.sample), generator=generator).to(torch.int32)
    few, four = byte_planes(message, planes), byte_planes(message)

    def narrow() -> torch.Tensor:
        return centred(planes_product(few, codes, layer.geometry), planes)

    def wide() -> torch.Tensor:
        return planes_product(four, codes, layer.geometry)

    if not torch.equal(narrow(), centred(wide(), planes)):
        raise SystemExit(f"{layer.name}: the two rings disagree")
    return planes, narrow, wide


def main() -> None:
    """Run as a command: sentences for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    layers = [layer for layer in (STEM, *CONVOLUTIONS) for _ in range(layer.count)]
    made = [products(layer) for layer in layers]
    pairs = _harness.paired(
        lambda: [narrow() for _, narrow, _ in made], lambda: [wide() for _, _, wide in made], repeats=15
    )
    result = _harness.summarise("the worker's blinded convolutions of ResNet-18", pairs, peer_name="four planes")
    planes = {layer.name: count for layer, (count, _, _) in zip(layers, made, strict=True)}
    if as_json:
        print(json.dumps(asdict(result) | {"planes": planes, "kernel": kernel().name}, sort_keys=True))
        return
    print(f"{result.claim}: x {result.ratio:.3f} of {MOST_PLANES} planes ({result.low:.3f} .. {result.high:.3f})")
    print(", ".join(f"{name}: {count}" for name, count in planes.items()))


if __name__ == "__main__":
    main()
