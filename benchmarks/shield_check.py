"""Freivalds' check of every answer against recomputing the layers in the trusted world, exactly, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _harness
from holdfast.seeds import Entropy
from holdfast.shielding import Freivalds
from holdfast.shielding.product import Geometry, integer_product, unroll

# the convolutions of ResNet-18 at 224x224, without the stem: (count, in, out, side, kernel, stride)
LAYERS = [
    (4, 64, 64, 56, 3, 1),
    (1, 64, 128, 56, 3, 2),
    (1, 64, 128, 56, 1, 2),
    (3, 128, 128, 28, 3, 1),
    (1, 128, 256, 28, 3, 2),
    (1, 128, 256, 28, 1, 2),
    (3, 256, 256, 14, 3, 1),
    (1, 256, 512, 14, 3, 2),
    (1, 256, 512, 14, 1, 2),
    (3, 512, 512, 7, 3, 1),
]
Call = Callable[[], object]


def measure() -> _harness.Result:
    """Time all layers of one pass, batch 1; the peer takes the fastest exact way it has for each layer."""
    torch.set_num_threads(1)
    ours: list[Call] = []
    peer: list[Call] = []
    for count, *layer in LAYERS:
        check, recompute = _pair(*layer)
        ours += [check] * count
        peer += [recompute] * count
    pairs = _harness.paired(lambda: [call() for call in ours], lambda: [call() for call in peer], repeats=15)
    return _harness.summarise(
        "checking every position of ResNet-18's convolutions over Z/2^64 costs less than computing them",
        pairs,
        peer_name="the fastest exact recomputation torch has (float32 convolution or int8 product)",
    )


def _pair(inputs: int, outputs: int, side: int, kernel: int, stride: int) -> tuple[Call, Call]:
    geometry = Geometry(
        kind="conv2d",
        in_channels=inputs,
        out_channels=outputs,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
    )
    generator = torch.Generator().manual_seed(side)
    codes = torch.randint(-127, 128, geometry.weight_shape, generator=generator, dtype=torch.int8)
    x = torch.randint(0, 128, (1, inputs, side, side), generator=generator, dtype=torch.int8)
    y = integer_product(x, codes, geometry)
    verifier = Freivalds().prepare(codes, geometry, Entropy())
    return lambda: verifier.accepts(x, y), _fastest_exact(x, codes, y, geometry)


def _fastest_exact(x: Tensor, codes: Tensor, y: Tensor, geometry: Geometry) -> Call:
    floats, matrix = codes.float(), codes.reshape(geometry.out_channels, -1).t().contiguous()
    pad = geometry.padding[0]
    ways: list[Callable[[], Tensor]] = [
        lambda: torch._int_mm(unroll(x, geometry), matrix).t().reshape(y.shape),
        lambda: F.conv2d(x.float(), floats, stride=geometry.stride, padding=pad).to(torch.int32),
    ]
    exact = [way for way in ways if torch.equal(way(), y)]
    return min(exact or [lambda: integer_product(x, codes, geometry)], key=_best_seconds)


def _best_seconds(call: Call) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return min(once() for _ in range(5))


if __name__ == "__main__":
    _harness.main(measure)
