"""Every way to multiply that a worker on a GPU has, on the layers of real networks, against the library's float16.

Weights and byte planes lie on the device already; what is timed is the product alone, between events, for the three
planes that most layers take. Every way is compared with the processor's exact reference first, and one that differs
is an error. The peer is torch's own float16 product of the same layer, one product where ours are three.

    python -m benchmarks.gpu_shield_products [--json]
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _gpu, _harness
from holdfast.errors import IntegrityError
from holdfast.seeds import derive
from holdfast.shielding.product import Geometry, centred, planes_product
from holdfast.shielding.ways import Layer, exact_ways

PLANES, BATCHES = 3, (1, 32)
Shape = tuple[Geometry, tuple[int, ...]]


def conv(taken: int, made: int, side: int, kernel: int = 3, stride: int = 1) -> Shape:
    """Return a convolution with margins of half its kernel."""
    geometry = Geometry(
        kind="conv2d", in_channels=taken, out_channels=made, kernel=(kernel, kernel), stride=(stride, stride),
        padding=(kernel // 2,) * 4,
    )  # fmt: skip
    return geometry, (taken, side, side)


def linear(taken: int, made: int, rows: int = 1) -> Shape:
    """Return a linear layer of ``rows`` rows a sample."""
    return Geometry(kind="linear", in_channels=taken, out_channels=made), (rows, taken)


LAYERS: Mapping[str, Shape] = {
    "ResNet-18 stem": conv(3, 64, 224, 7, 2),
    "ResNet-18 64 at 56": conv(64, 64, 56),
    "ResNet-18 128 at 28": conv(128, 128, 28),
    "ResNet-18 256 at 14": conv(256, 256, 14),
    "ResNet-18 512 at 7": conv(512, 512, 7),
    "ResNet-18 64-128 1x1": conv(64, 128, 56, 1, 2),
    "VGG-19 64 at 224": conv(64, 64, 224),
    "VGG-19 256 at 56": conv(256, 256, 56),
    "VGG-19 512 at 14": conv(512, 512, 14),
    "VGG-19 fc1": linear(25088, 4096),
    "ViT-S mlp": linear(384, 1536, 197),
    "ViT-S qkv": linear(384, 1152, 197),
}


def measure(
    device: torch.device, layers: Mapping[str, Shape] | None = None, batches: tuple[int, ...] = BATCHES
) -> _gpu.DeviceResult:
    """Time every way of every layer; the headline is the sum of the quickest ways against the sum of float16."""
    cases: list[dict[str, Any]] = []
    ours, theirs = [0.0] * _gpu.REPEATS, [0.0] * _gpu.REPEATS
    for name, (geometry, sample) in (LAYERS if layers is None else layers).items():
        for batch in batches:
            times, peer, count = _layer(name, geometry, sample, batch, device)
            best = min(times, key=lambda way, times=times: statistics.median(times[way]))
            cases += [
                _case(f"{name} x{batch} {way}", spent, peer, (geometry, sample), batch, count, device)
                for way, spent in times.items()
            ]
            ours = [total + spent for total, spent in zip(ours, times[best], strict=False)]
            theirs = [total + spent for total, spent in zip(theirs, peer, strict=False)]
    pairs = list(zip(ours, theirs, strict=False))
    text = f"int8 products of {PLANES} byte planes, the quickest exact way of each layer, all layers"
    result = _harness.summarise(text, pairs, peer_name="float16 product of the same layers", unit="ms")
    return _gpu.DeviceResult(**(asdict(result) | {"machine": _gpu.machine()}), cases=cases)


def _layer(
    name: str, geometry: Geometry, sample: tuple[int, ...], batch: int, device: torch.device
) -> tuple[dict[str, list[float]], list[float], int]:
    """Return the times of each way and of the peer, and the bytes that a product reads and writes at least."""
    draw = derive(0, "gpu-shield-products", name).torch()
    message = torch.randint(-128, 128, (PLANES, batch, *sample), generator=draw, dtype=torch.int8)
    codes = torch.randint(-128, 128, geometry.weight_shape, generator=draw, dtype=torch.int8)
    few, there = message[:, :1], message.to(device)
    wanted, times = centred(planes_product(few, codes, geometry), PLANES), {}
    for way, call in exact_ways(device).by_name.items():
        layer = Layer(name, codes, geometry, device, {way: call})
        if not torch.equal(layer(few.contiguous().to(device), PLANES).cpu(), wanted):
            raise IntegrityError(f"{way} is not exact for {name}")
        times[way] = _gpu.milliseconds(lambda layer=layer: layer(there, PLANES))
    written = 4 * batch * math.prod(geometry.output_shape(sample))
    return times, _gpu.milliseconds(_peer(geometry, there[0], codes)), message.nbytes + codes.nbytes + written


def _peer(geometry: Geometry, plane: Tensor, codes: Tensor) -> Callable[[], Tensor]:
    x, weights = plane.half(), codes.to(plane.device).half()
    if geometry.kind == "linear":
        return lambda: F.linear(x, weights)
    left, _, top, _ = geometry.padding
    x, weights = (part.to(memory_format=torch.channels_last) for part in (x, weights))
    return lambda: F.conv2d(x, weights, None, geometry.stride, (top, left))


def _case(
    name: str, times: list[float], peer: list[float], shape: Shape, batch: int, count: int, device: torch.device
) -> dict[str, Any]:
    limit = _gpu.copying(torch.empty(count, dtype=torch.uint8, device=device))
    found = _gpu.row(name, times, limit, count=count)
    geometry, sample = shape
    macs = PLANES * batch * math.prod(geometry.output_shape(sample)) * geometry.inner
    return found | {"int8_tops": 2e-9 * macs / found["ms"], "float16_ms": statistics.median(peer)}


if __name__ == "__main__":
    _gpu.main(measure)
