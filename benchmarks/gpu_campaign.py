"""A fault campaign on a ViT-L: batches in lockstep against one hooked inference per fault on the same device.

Both go all the way to the rows of the table: faults drawn beforehand, flips, passes, comparison, outcomes. Lockstep is
first held against whole passes of its batch, bit for bit. Random weights; what is timed depends on shapes only.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

from benchmarks import _campaigns, _gpu, _harness
from benchmarks._transformers import Transformer

VIT_L = {"dim": 1024, "heads": 16, "depth": 24, "patch": 16, "image": 224}
ROWS, TRIALS, INPUTS, REPEATS = 32, 512, 32, 7
ARMS = {"tf32": (torch.float32, True), "bf16": (torch.bfloat16, False), "fp32": (torch.float32, False)}


def measure(
    device: torch.device, shape: dict[str, int] = VIT_L, rows: int = ROWS, trials: int = TRIALS, repeats: int = REPEATS
) -> _gpu.DeviceResult:
    """Measure fp32 with TF32, bf16, and strict fp32, which is the claim."""
    found, cases = None, []
    for name, (dtype, tf32) in ARMS.items():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        found, case = _arm(name, device, shape, dtype, rows, trials, repeats)
        cases.append(case)
    if found is None:
        raise SystemExit("there are no arms to measure")
    return _gpu.DeviceResult(**(vars(found) | {"machine": _gpu.machine()}), cases=cases)


def _arm(
    name: str, device: torch.device, shape: dict[str, int], dtype: torch.dtype, rows: int, trials: int, repeats: int
) -> tuple[_harness.Result, dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(_To(dtype), Transformer(**shape)).eval().requires_grad_(False).to(device, dtype)
    data = _campaigns.images(INPUTS, shape["image"])
    known = _campaigns.linear_sites(model, data)
    drawn = _campaigns.draw(known, INPUTS, trials, 0)
    _campaigns.require_equal(model, data, drawn[: 4 * rows], rows)
    began = time.perf_counter()
    ours = _campaigns.runner_of(model, data, "lockstep", rows)
    _campaigns.run(ours, drawn, rows)
    once = time.perf_counter() - began
    plain, few = _campaigns.runner_of(model, data, "hooks", 1), drawn[: max(2, trials // 8)]
    mine = _gpu.milliseconds(lambda: _campaigns.run(ours, drawn, rows), repeats=repeats)
    theirs = _gpu.milliseconds(lambda: _campaigns.run(plain, few, 1), repeats=repeats)
    pairs = [(1e3 * len(drawn) / a, 1e3 * len(few) / b) for a, b in zip(mine, theirs, strict=True)]
    result = _harness.summarise(
        f"campaign on a ViT-L in {name}, batches of {rows}", pairs, peer_name="one hooked inference per fault",
        unit="faults per s",
    )  # fmt: skip
    size = statistics.median(mine) / len(drawn)
    case = {
        "name": f"{name}, ms per fault",
        "ms": size,
        "gb_per_s": 0.0,
        "copy_ms": statistics.median(theirs) / len(few),
    }
    facts = {"ratio": result.ratio, "low": result.low, "high": result.high, "capture_and_first_run_s": once}
    return result, case | facts


class _To(nn.Module):
    """Hands images on in the dtype of the network."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.dtype)


if __name__ == "__main__":
    _gpu.main(measure)
