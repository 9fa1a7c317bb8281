"""Checksums of linear layers: what they cost, what they find, and how often rounding fools them.

Cost: whole forward passes of a vision transformer with every linear layer checked, against the same without checks;
fp32 and one image are the headline, the table has bf16, two widths and a batch of eight. Detection: a small
transformer trained on the digits, single flipped bits in outputs and in weights of its linear layers; of those that
change the top-1 class, or give NaN or infinity, how many raise an alarm. False alarms: products without any fault, of
many shapes and kinds of input. The thresholds are held against two others: the worst case of rounding,
gamma_K |x| |W| summed over the row, and a tolerance of 1e-2 relative to the row, as tools without an error model take
it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import _harness
from benchmarks._transformers import Transformer, trained_on_digits, untrained
from holdfast.data import dataset
from holdfast.execution.statistics import Proportion
from holdfast.hardening import Checksums, harden
from holdfast.hardening.guards.checksum_linear import LinearCheck
from holdfast.hardening.guards.checksum_method import smallest_thresholds
from holdfast.hardening.guards.checksum_rounding import FALSE_ALARMS, unit_roundoff
from holdfast.hardening.guards.checksum_sums import Sums
from holdfast.models import card, tap
from holdfast.numerics import bits
from holdfast.seeds import derive

PRODUCTS = int(os.environ.get("HOLDFAST_BENCH_PRODUCTS", "100000"))
TRIALS = int(os.environ.get("HOLDFAST_BENCH_TRIALS", "60000"))
REPEATS = int(os.environ.get("HOLDFAST_BENCH_REPEATS", "25"))
DTYPES = (torch.float32, torch.bfloat16)
# dim, heads, blocks, images: as ViT-B and ViT-S have them, with fewer blocks
WIDTHS = ((768, 12, 2, 1), (384, 6, 3, 1), (768, 12, 2, 8))
SHAPES = ((16, 64, 192), (17, 64, 256), (17, 256, 64), (32, 128, 10), (8, 384, 96), (5, 1024, 33), (9, 96, 1600))
ROWS = 64  # faults in outputs that share one pass


def measure() -> _harness.Result:
    """Time a ViT-B-like transformer in fp32 with and without checks."""
    torch.set_num_threads(1)
    return _cost(*WIDTHS[0], torch.float32)


def _linear(model: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.Linear))


def _cost(dim: int, heads: int, depth: int, images: int, dtype: torch.dtype) -> _harness.Result:
    plain = untrained(dim, heads, depth).to(dtype)
    image = torch.randn(images, 3, 224, 224, generator=derive(0, "image").torch()).to(dtype)
    other = torch.randn(1, 3, 224, 224, generator=derive(0, "calibration").torch()).to(dtype)
    checksums = Checksums(sites=_linear(plain))
    checked = harden(plain, replace(checksums, quick=smallest_thresholds(plain, checksums, other)))
    with torch.no_grad():
        pairs = _harness.paired(lambda: checked(image), lambda: plain(image), repeats=REPEATS)
    return _harness.summarise(
        f"checking all {len(_linear(plain))} linear layers, width {dim}, {_name(dtype)}, batch {images}",
        pairs,
        peer_name="the same forward pass unchecked",
    )


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def false_alarms(dtype: torch.dtype) -> dict[str, Any]:
    """Check PRODUCTS clean products: shapes in turn, inputs plain, one-sided, with outliers, large and tiny."""
    draw = derive(0, "clean", _name(dtype)).torch()
    alarms = rows = 0
    layers = [_layer(shape, dtype, draw) for shape in SHAPES]
    for number in range(PRODUCTS):
        (count, inputs, _), (weight, bias, check) = SHAPES[number % len(SHAPES)], layers[number % len(SHAPES)]
        x = _inputs(count, inputs, number // len(SHAPES) % 5, draw).to(dtype)
        alarms += len(check.wrong(x, F.linear(x, weight, bias)))
        rows += count
    share = Proportion.clopper_pearson(alarms, rows)
    return {"products": PRODUCTS, "rows": rows, "alarms": alarms, "rate-high": share.high}


def _layer(
    shape: tuple[int, int, int], dtype: torch.dtype, draw: torch.Generator
) -> tuple[Tensor, Tensor, LinearCheck]:
    _, inputs, outputs = shape
    weight = (torch.randn(outputs, inputs, generator=draw) / inputs**0.5).to(dtype)
    bias = torch.randn(outputs, generator=draw).to(dtype)
    return weight, bias, LinearCheck(Sums.of(weight, bias), weight, bias, FALSE_ALARMS)


def _inputs(rows: int, inputs: int, kind: int, draw: torch.Generator) -> Tensor:
    x = torch.randn(rows, inputs, generator=draw)
    if kind == 1:
        return F.gelu(x)
    if kind == 2:
        x[:, ::37] *= 100
    return x * (1.0, 1.0, 1.0, 1e3, 1e-4)[kind]


def thresholds(dtype: torch.dtype) -> dict[str, float]:
    """Return medians of thresholds in multiples of the largest clean residual of a (197, 768, 768) product."""
    draw = derive(0, "thresholds").torch()
    weight, bias, check = _layer((0, 768, 768), dtype, draw)
    x = torch.randn(197, 768, generator=draw).to(dtype)
    y = F.linear(x, weight, bias)
    residual = y.double() @ check.sums.signs - x.double() @ check.sums.plain[0, :-1] - check.sums.bias
    worst = float(residual.abs().max())
    sizes = x.double().abs() @ weight.double().abs().sum(0)
    classical = 768 * unit_roundoff(torch.float32) * sizes + unit_roundoff(dtype) * y.double().abs().sum(1)
    ratios = {"ours": check.thresholds(x, y), "worst-case": classical, "relative-1e-2": 1e-2 * y.double().abs().sum(1)}
    return {name: float(found.median()) / worst for name, found in ratios.items()}


def detection(model: Transformer, dtype: torch.dtype, where: str) -> dict[str, Any]:
    """Return how many of the harmful single flips in ``outputs`` or ``weights`` of linear layers raise an alarm."""
    subject = harden(model.to(dtype), Checksums(sites=_linear(model), action="detect"))
    images = dataset("digits", split="test").all()[0].to(dtype)
    harmful = found = flips = 0
    with torch.no_grad():
        for wrong, alarmed in (_in_outputs if where == "outputs" else _in_weights)(subject, images, dtype):
            flips += len(wrong)
            harmful += int(wrong.sum())
            found += int((wrong & alarmed).sum())
    share = Proportion.clopper_pearson(found, harmful)
    return {"flips": flips, "harmful": harmful, "found": found, "value": share.value, "low": share.low,
            "high": share.high}  # fmt: skip


def _in_outputs(subject: nn.Module, images: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    draw = derive(0, "outputs", _name(dtype)).torch()
    sites, width = _linear(subject), bits.bit_width(dtype)
    for step in range(TRIALS // ROWS):
        pick = torch.randint(0, len(images), (ROWS,), generator=draw)
        golden = subject(images[pick])
        place, bit = (torch.randint(0, 2**31, (ROWS,), generator=draw) for _ in range(2))

        def hit(output: Tensor, place: Tensor = place, bit: Tensor = bit) -> Tensor:
            size = output[0].numel()
            bits.xor_(output, torch.arange(ROWS) * size + place % size, bits.one_bit(bit % width))
            return output

        with tap(subject, {sites[step % len(sites)]: hit}):
            yield _harmful(golden, subject(images[pick])), _alarmed(subject)


def _in_weights(subject: nn.Module, images: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    draw = derive(0, "weights", _name(dtype)).torch()
    tensors = [item for name in _linear(subject) for item in subject.get_submodule(name).parameters()]
    pick = torch.randint(0, len(images), (8,), generator=draw)
    golden = subject(images[pick])
    for _ in range(TRIALS // 4):
        which, place, bit = torch.randint(0, 2**31, (3,), generator=draw).split(1)
        tensor = tensors[int(which) % len(tensors)]
        mask = bits.one_bit(bit % bits.bit_width(dtype))
        bits.xor_(tensor, place % tensor.numel(), mask)
        wrong = _harmful(golden, subject(images[pick]))
        yield wrong.any()[None], _alarmed(subject).any()[None]
        bits.xor_(tensor, place % tensor.numel(), mask)


def _harmful(golden: Tensor, seen: Tensor) -> Tensor:
    return (golden.argmax(1) != seen.argmax(1)) | ~seen.isfinite().all(1)


def _alarmed(subject: nn.Module) -> Tensor:
    return torch.stack([guard.alarms for guard in card(subject).guards]).sum(0) > 0


def table() -> dict[str, Any]:
    """Return everything but the headline."""
    result: dict[str, Any] = {}
    for dtype in DTYPES:
        model = trained_on_digits()
        result[_name(dtype)] = {
            "cost": [asdict(_cost(*width, dtype)) for width in WIDTHS],
            "thresholds": thresholds(dtype),
            "false-alarms": false_alarms(dtype),
            "found": {where: detection(model, dtype, where) for where in ("outputs", "weights")},
        }
    return result


def main() -> None:
    """Run as a command: sentences for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    result, found = measure(), table()
    if as_json:
        print(json.dumps(asdict(result) | {"table": found}, sort_keys=True))
        return
    print(f"{result.claim}: {result.ratio:.4f} [{result.low:.4f}, {result.high:.4f}] of {result.peer_name}")
    for name, part in found.items():
        for cost in part["cost"]:
            print(f"  {name} {cost['claim']}: {cost['ratio']:.4f} [{cost['low']:.4f}, {cost['high']:.4f}]")
        print(f"  {name} thresholds over the largest clean residual: {part['thresholds']}")
        print(f"  {name} clean products: {part['false-alarms']}")
        for where, share in part["found"].items():
            print(f"  {name} harmful flips in {where} found: {share}")


if __name__ == "__main__":
    main()
