"""Checking answers against computing them again in int8, on one core: ResNet-18's convolutions, and large linears.

The peer is, layer by layer, the fastest int8 way this machine has: oneDNN's convolution with weights packed beforehand
and its input laid out as it likes best (its output in float32 or requantised to int8, whichever is faster, although
only the exact int32 sums could be compared), or our own product. Our check reads tensors as they come from the wire.
Totals run through all layers one after another, as inference does. Rows of the table time a layer alone, in runs of ten
calls where it is linear: else a recomputation that reads 100 MB of weights would leave the check a cold cache, and what
is timed would be that. The stem, of three input channels, is left out of the claim, and in a second total.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _harness
from benchmarks._resnet_layers import CONVOLUTIONS, LINEARS, STEM, Layer
from holdfast.seeds import Entropy
from holdfast.shielding import Freivalds
from holdfast.shielding.checking.freivalds import choose_side
from holdfast.shielding.kernels import kernel
from holdfast.shielding.product import Geometry, integer_product

Call = Callable[[], object]
PEER = "the fastest int8 recomputation (oneDNN convolution, or our product)"
TURNS = {1: 31, 16: 7, 197: 5}
_RUN = 10  # calls


def measure() -> _harness.Result:
    """Time the check of all 19 offloaded convolutions of one pass, batch 1."""
    torch.set_num_threads(1)
    return total("the offloaded convolutions of ResNet-18, batch 1", CONVOLUTIONS, 1)


def total(what: str, layers: Sequence[Layer], batch: int) -> _harness.Result:
    """Time all of ``layers``, as often as each occurs, against recomputing them."""
    ours: list[Call] = []
    peer: list[Call] = []
    for layer in layers:
        check, recompute, _ = both(layer, batch)
        ours += [check] * layer.count
        peer += [recompute] * layer.count
    pairs = _harness.paired(lambda: [call() for call in ours], lambda: [call() for call in peer], repeats=TURNS[batch])
    return _harness.summarise(f"checking costs less than computing: {what}", pairs, peer_name=PEER)


def both(layer: Layer, batch: int) -> tuple[Call, Call, str]:
    """Return the check, the fastest recomputation, and what that is."""
    x, codes, y = layer.operands(batch)
    verifier = Freivalds().prepare(codes, layer.geometry, Entropy())
    if not verifier.accepts(x, y):
        raise RuntimeError(f"an honest product of {layer.name} was refused")
    ways = recomputations(x, codes, y, layer.geometry)
    name = min(ways, key=lambda way: min(_harness.cpu_seconds(ways[way]) for _ in range(7)))
    return lambda: verifier.accepts(x, y), ways[name], name


def recomputations(x: Tensor, codes: Tensor, y: Tensor, geometry: Geometry) -> dict[str, Call]:
    """Return every int8 way to compute the layer that this machine has; those that claim exactness must be exact."""
    ways: dict[str, Call] = {"our product": lambda: integer_product(x, codes, geometry)}
    if geometry.kind == "linear":
        packed = codes.t().contiguous()
        rows = x.reshape(-1, geometry.in_channels)
        ways["int8 product, weights transposed"] = lambda: torch._int_mm(rows, packed)
        ways["int8 product, weights first"] = lambda: torch._int_mm(codes, rows.t())
        return ways
    for name, dtype in (("oneDNN, float32 out", torch.float32), ("oneDNN, int8 out", torch.int8)):
        way = onednn(x, codes, geometry, dtype)
        if way is not None:
            ways[name] = way
    floats = codes.float()
    padded = F.pad(x.float(), geometry.padding)
    ways["float32 convolution"] = lambda: F.conv2d(padded, floats, stride=geometry.stride)
    return ways


def onednn(x: Tensor, codes: Tensor, geometry: Geometry, dtype: torch.dtype) -> Call | None:
    """Return oneDNN's quantised convolution, or None where torch comes without."""
    out, stride, pad = geometry.out_channels, list(geometry.stride), [geometry.padding[0]] * 2
    codes_in = x.view(torch.uint8).contiguous(memory_format=torch.channels_last)
    scales, zeros = torch.ones(out), torch.zeros(out, dtype=torch.int64)
    try:
        packed = torch.ops.onednn.qconv_prepack(codes, scales, 1.0, 0, stride, pad, [1, 1], 1, list(x.shape))
    except (RuntimeError, AttributeError):
        return None
    settings = (None, stride, pad, [1, 1], 1, 1.0, 0, dtype, "none", [], "")
    return lambda: torch.ops.onednn.qconv2d_pointwise(codes_in, 1.0, 0, packed, scales, zeros, *settings)


def rows(layers: Sequence[Layer], batch: int) -> list[dict[str, object]]:
    """Return one row a layer: medians in milliseconds and their ratio with its interval."""
    table = []
    for layer in layers:
        check, recompute, name = both(layer, batch)
        run = _RUN if layer.geometry.kind == "linear" and batch < _RUN * 2 else 1
        check, recompute = _often(check, run), _often(recompute, run)
        pairs = _harness.paired(check, recompute, repeats=TURNS[batch] + 10)
        item = _harness.summarise(layer.name, pairs, peer_name=name)
        table.append(
            {
                "layer": layer.name,
                "count": layer.count,
                "batch": batch,
                "run": run,
                "side": choose_side(layer.geometry, layer.sample, many=batch > 1),
                "check_ms": 1e3 * item.ours / run,
                "recompute_ms": 1e3 * item.peer / run,
                "recompute": name,
                "ratio": item.ratio,
                "low": item.low,
                "high": item.high,
            }
        )
    return table


def _often(call: Call, times: int) -> Call:
    return lambda: [call() for _ in range(times)]


def everything() -> dict[str, object]:
    """Return the other totals and the whole table."""
    totals = [
        total("the offloaded convolutions of ResNet-18, batch 16", CONVOLUTIONS, 16),
        total("all convolutions of ResNet-18, batch 1, stem included", [STEM, *CONVOLUTIONS], 1),
        total("all convolutions of ResNet-18, batch 16, stem included", [STEM, *CONVOLUTIONS], 16),
    ]
    table = [row for batch in (1, 16) for row in rows([STEM, *CONVOLUTIONS], batch)]
    table += [row for batch in (1, 16, 197) for row in rows(LINEARS, batch)]
    return {"totals": [asdict(item) for item in totals], "table": table, "kernel": kernel().name}


def main() -> None:
    """Run as a command: sentences and a table for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, more = measure(), everything()
    if as_json:
        print(json.dumps(asdict(result) | more, sort_keys=True))
        return
    for item in (asdict(result), *more["totals"]):
        print(f"{item['claim']}: x {item['ratio']:.3f} ({item['low']:.3f} .. {item['high']:.3f})")
    for row in more["table"]:
        print("  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))


if __name__ == "__main__":
    main()
