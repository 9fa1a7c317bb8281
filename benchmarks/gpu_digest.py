"""BLAKE3 roots of whole state dicts in device memory, against a copy of the same bytes there.

The shapes are those of the networks whose times Sentry publishes; the values are random. Every run first compares all
roots of the smallest network with the ``blake3`` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from blake3 import blake3

from benchmarks import _gpu
from holdfast._kernels.digest import Plan
from holdfast.seeds import derive

Shapes = list[tuple[int, ...]]


def resnet152() -> Shapes:
    """Convolutions, batch norms with their buffers, and the classifier."""

    def conv(out: int, into: int, side: int) -> Shapes:
        return [(out, into, side, side), (out,), (out,), (out,), (out,), ()]

    shapes, width = conv(64, 3, 7), 64
    for planes, blocks in ((64, 3), (128, 8), (256, 36), (512, 3)):
        for block in range(blocks):
            shapes += conv(planes, width, 1) + conv(planes, planes, 3) + conv(4 * planes, planes, 1)
            shapes += conv(4 * planes, width, 1) if block == 0 else []
            width = 4 * planes
    return [*shapes, (1000, 2048), (1000,)]


def vgg19() -> Shapes:
    """Sixteen convolutions and three linear layers."""
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    convs = [shape for a, b in pairwise(widths) for shape in ((b, a, 3, 3), (b,))]
    return [*convs, (4096, 25088), (4096,), (4096, 4096), (4096,), (1000, 4096), (1000,)]


def bert_base() -> Shapes:
    """Embeddings, twelve layers, the pooler, and the tied head once more."""
    layer = [(768, 768), (768,)] * 4 + [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,), (768,), (768,)]
    return [(30522, 768), (512, 768), (2, 768), (768,), (768,), *layer * 12, (768, 768), (768,), (30522, 768)]


def gpt2(width: int, layers: int) -> Shapes:
    """Embeddings, layers, the last norm, and the tied head once more."""
    d = width
    layer = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(50257, d), (1024, d), *layer * layers, (d,), (d,), (50257, d)]


NETWORKS: Mapping[str, Shapes] = {
    "resnet-152": resnet152(),
    "bert-base": bert_base(),
    "vgg-19": vgg19(),
    "gpt2": gpt2(768, 12),
    "gpt2-xl": gpt2(1600, 48),
}


def measure(device: torch.device, networks: Mapping[str, Shapes] = NETWORKS) -> _gpu.DeviceResult:
    """Time the roots of every network; the last one is the claim."""
    cases, ours, limit = [], [0.0], [1.0]
    for number, (name, shapes) in enumerate(networks.items()):
        tensors = _tensors(shapes, device)
        plan = Plan(tuple(tensors))
        if number == 0:
            _require_equal(plan)
        count = sum(item.nbytes for item in tensors)
        flat = torch.empty(count, dtype=torch.uint8, device=device)
        limit = _gpu.copying(flat)
        del flat
        ours = _gpu.milliseconds(plan.roots)
        cases.append(_gpu.row(name, ours, limit, count=count))
        whole = _gpu.milliseconds(lambda items=tensors: Plan(tuple(items)).roots().cpu())
        cases.append(_gpu.row(f"{name}, tables and copy of roots", whole, limit, count=count))
    return _gpu.summarise("BLAKE3 of a state dict where it lies in device memory", ours, limit, cases)


def _tensors(shapes: Shapes, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator(device).manual_seed(derive(0, "gpu-digest").words()[1] >> 1)
    return [torch.randn(shape, device=device, generator=generator) for shape in shapes]


def _require_equal(plan: Plan) -> None:
    expected = [blake3(item.cpu().reshape(-1).view(torch.uint8).numpy().data).digest() for item in plan.tensors]
    if [bytes(row) for row in plan.roots().cpu().numpy()] != expected:
        raise SystemExit("the digests are not those of the blake3 package: nothing to time")


if __name__ == "__main__":
    _gpu.main(measure)
